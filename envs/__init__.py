"""The worlds. This folder installs as `gtmsm_env.envs`; nothing in it imports torch."""
