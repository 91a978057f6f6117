-- What tells this database from all others: KV caches of several may lie in one folder of a machine.
INSERT INTO memos.setting (key, value) VALUES ('database', to_jsonb(gen_random_uuid()));
