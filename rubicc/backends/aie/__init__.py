"""AMD AI Engine: integer networks as a Vitis project, with a functional emulation that runs anywhere."""
