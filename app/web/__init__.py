"""What a browser gets: pages, their third-party files and the build hook that fetches them."""
