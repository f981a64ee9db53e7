"""Trains models: optimiser steps, processes, state on disk, snapshots."""
