"""Policy versions and adapters: checked, published, expired and waited for. Never queues a job."""
