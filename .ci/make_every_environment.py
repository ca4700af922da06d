"""Makes every registered environment, alone and as a vector; one whose extra is absent must raise an error that says what to install."""

import gymnasium

import gtmsm_env  # noqa: F401  registers them

names = sorted(name for name in gymnasium.registry if name.startswith("GTMSM-"))
assert names, "no environment is registered"
for name in names:
    try:
        with gymnasium.make(name) as env:
            env.reset(seed=0)
            env.step(env.action_space.sample())
        envs = gymnasium.make_vec(name, num_envs=2)
        envs.reset(seed=0)
        envs.step(envs.action_space.sample())
        envs.close()
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        if "pip install" not in str(error):
            raise
        print(f"{name}: not made, and says so: {error}")
    else:
        print(f"{name}: made")
