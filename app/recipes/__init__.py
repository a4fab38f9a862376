"""Built-in recipes: training programs that the service ships."""
