"""A store for OmniQ. Keep this module empty: the plugin is imported by everybody who looks a store up."""
