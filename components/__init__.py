"""The stages as KFP components: thin interfaces around `twhin_core`."""
