"""The engines, and rules that hold for all of them. Knows neither Redis nor a job."""
