"""Steps from every earlier shape of the registry to the present one, run by Alembic. Open `env.py` first."""
