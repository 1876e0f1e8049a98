"""What tests need to watch a fleet: scrapes, pages, terminals, traces, invented fleets."""
