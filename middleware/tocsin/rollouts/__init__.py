"""Where a rollout's counts come from, and what gates it elsewhere: Argo Rollouts, Flagger."""
