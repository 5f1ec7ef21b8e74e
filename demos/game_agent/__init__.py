"""Two agents that learn to play by evolution: one finds its way in a grid, one balances a pole. No gradients."""
