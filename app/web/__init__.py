"""Files for browsers: pages, their third-party files and the build hook that fetches them."""
