"""Makes bundles: graphs, engines, weights and manifest, verified before they are kept."""
