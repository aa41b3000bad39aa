"""What is known of requests and told of the service: metrics, traces, logs."""
