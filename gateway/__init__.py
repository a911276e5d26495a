"""The application's side of the gateway; the library's is fissile_gateway."""
