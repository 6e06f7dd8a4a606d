"""The public client: validated requests in, results with a route out."""
