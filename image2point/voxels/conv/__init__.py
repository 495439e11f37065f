"""One convolution, several executions: `engines` on sparse voxels, `reference` as their oracle, `dense` on grids."""
