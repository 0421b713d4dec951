-- Each server owns one database and can reach no other; run once by psql as the superuser.
-- Passwords come from files and are never in a command line: psql -v secrets=/run/secrets -f roles.sql
\set ON_ERROR_STOP on
\if :{?secrets} \else \set secrets /run/secrets \endif
\set mlflow_password `cat :secrets/mlflow_db_password`
\set prefect_password `cat :secrets/prefect_db_password`
\set backup_password `cat :secrets/backup_db_password`

CREATE ROLE mlflow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'mlflow_password';
CREATE ROLE prefect LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'prefect_password';
-- Reads everything, for pg_dump, and writes nothing.
CREATE ROLE backup LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'backup_password';
GRANT pg_read_all_data TO backup;

CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
REVOKE ALL ON DATABASE mlflow, mlflow_auth, prefect FROM PUBLIC;
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE mlflow, mlflow_auth, prefect TO backup;

\connect mlflow
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO mlflow;
\connect mlflow_auth
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO mlflow;
\connect prefect
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO prefect;
-- Prefect's migrations want it; making it here keeps them from needing more rights.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
