"""Everything that lasts: the only folder with SQL, and the only one that imports asyncpg, redis or aiobotocore."""
