"""The parts of `bench_gpu`, each a program of its own that prints JSON lines."""
