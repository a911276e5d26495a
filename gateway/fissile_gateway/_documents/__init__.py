"""What the gateway tells of itself: the OpenAPI document, the AsyncAPI document, and a page to read."""
