"""A trial of what scales workers: a controller that decides as KEDA and the HPA do starts and stops real stub workers
over a made-up day. It measures no GPU, and nothing here is imported by the packages."""
