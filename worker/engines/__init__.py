"""What an engine must keep to, and those that exist. Knows neither Redis nor a job."""
