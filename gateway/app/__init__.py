"""The routes of this application: every file here with a `blueprint` is registered by the gateway."""
