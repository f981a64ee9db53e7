"""The loop over scales with its whole state on the device: engines and kernels queue there, the host only launches."""
