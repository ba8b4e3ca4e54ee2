"""The DAG of the stages, run locally or compiled for a cluster, and the command line."""
