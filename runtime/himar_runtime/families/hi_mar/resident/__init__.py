"""The two-phase loop with its whole state on the device: engines and kernels queue there, the host only launches."""
