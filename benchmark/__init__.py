"""The core: specs, registry, store, plan, engine, data, training, metrics, command line."""
