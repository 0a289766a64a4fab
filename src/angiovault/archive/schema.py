"""The index's schema: numbered migrations in the SQL that SQLite and MariaDB 10.0 both understand.

Column types differ by engine and stand here once. UIDs and codes are ASCII and compared byte by byte; search keys are
folded by `names.fold` before they are stored, so the engine's own collation never decides what matches. No column of
an index is longer than 767 bytes, the limit of InnoDB before MariaDB 10.2, and no index longer than 3,072.
"""

from __future__ import annotations

import re
from typing import Final

TYPES: Final = {
    "sqlite": {
        "SERIAL": "INTEGER PRIMARY KEY",
        "REF": "INTEGER NOT NULL",
        "INT": "INTEGER NOT NULL",
        "NUMBER": "INTEGER",
        "UID": "TEXT NOT NULL",
        "CODE": "TEXT NOT NULL",
        "HASH": "TEXT NOT NULL",
        "KEY": "TEXT NOT NULL",
        "TEXT": "TEXT NOT NULL",
        "BYTES": "BLOB NOT NULL",
        "OPTIONS": "",
    },
    "mysql": {
        "SERIAL": "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
        "REF": "BIGINT NOT NULL",
        "INT": "BIGINT NOT NULL",
        "NUMBER": "BIGINT",
        "UID": "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "CODE": "VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "HASH": "CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
        "KEY": "VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
        "TEXT": "TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
        "BYTES": "MEDIUMBLOB NOT NULL",
        "OPTIONS": " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    },
}
"""Engine -> type name of the migrations -> SQL."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE archive (name {CODE}, value {TEXT}, PRIMARY KEY (name)){OPTIONS}",
        # Patients as Patient ID and issuer tell them apart; every name met for one is a row of patient_name.
        "CREATE TABLE patient (id {SERIAL}, identity {HASH}, patient_id {KEY}, birth_date {CODE}, "
        "head {BYTES}){OPTIONS}",
        "CREATE UNIQUE INDEX patient_identity ON patient (identity)",
        "CREATE INDEX patient_patient_id ON patient (patient_id)",
        "CREATE INDEX patient_birth_date ON patient (birth_date)",
        "CREATE TABLE patient_name (id {SERIAL}, patient_id {REF}, name {KEY}){OPTIONS}",
        "CREATE UNIQUE INDEX patient_name_patient ON patient_name (patient_id, name(185))",
        "CREATE INDEX patient_name_name ON patient_name (name)",
        "CREATE TABLE study (id {SERIAL}, uid {UID}, patient_id {REF}, person {HASH}, patients_differ {INT}, "
        "study_date {CODE}, study_time {CODE}, accession_number {KEY}, study_id {KEY}, description {KEY}, "
        "modalities {TEXT}, sop_classes {TEXT}, series_count {INT}, instance_count {INT}, byte_count {INT}, "
        "received {CODE}, head {BYTES}){OPTIONS}",
        "CREATE UNIQUE INDEX study_uid ON study (uid)",
        "CREATE INDEX study_patient ON study (patient_id)",
        "CREATE INDEX study_study_date ON study (study_date, study_time)",
        "CREATE INDEX study_accession_number ON study (accession_number)",
        "CREATE INDEX study_study_id ON study (study_id)",
        "CREATE INDEX study_received ON study (received)",
        # Every patient met in a study; the first one is study.patient_id.
        "CREATE TABLE study_person (id {SERIAL}, study_id {REF}, patient_id {REF}){OPTIONS}",
        "CREATE UNIQUE INDEX study_person_pair ON study_person (study_id, patient_id)",
        "CREATE INDEX study_person_patient ON study_person (patient_id)",
        "CREATE TABLE series (id {SERIAL}, study_id {REF}, uid {UID}, modality {CODE}, series_number {NUMBER}, "
        "description {KEY}, instance_count {INT}, byte_count {INT}, head {BYTES}){OPTIONS}",
        "CREATE UNIQUE INDEX series_uid ON series (uid, study_id)",
        "CREATE INDEX series_study ON series (study_id)",
        "CREATE INDEX series_modality ON series (modality)",
        "CREATE TABLE folder (id {SERIAL}, digest {HASH}, path {TEXT}){OPTIONS}",
        "CREATE UNIQUE INDEX folder_digest ON folder (digest)",
        # One row per kept file: version 1 is the first content received under a SOP Instance UID.
        "CREATE TABLE instance (id {SERIAL}, uid {UID}, version {INT}, content {CODE}, current {INT}, series_id {REF}, "
        "sop_class {UID}, transfer_syntax {UID}, instance_number {NUMBER}, digest {HASH}, size {INT}, "
        "folder_id {REF}, file {KEY}, received {CODE}, calling {CODE}, complete {INT}, head {BYTES}){OPTIONS}",
        "CREATE UNIQUE INDEX instance_uid_version ON instance (uid, version)",
        "CREATE UNIQUE INDEX instance_uid_content ON instance (uid, content)",
        "CREATE INDEX instance_series ON instance (series_id)",
        "CREATE INDEX instance_version ON instance (version)",
        # Storage commitment requests until their result was delivered, and their results afterwards (PS3.4 annex J).
        "CREATE TABLE commitment (id {SERIAL}, transaction_uid {UID}, calling {CODE}, called {CODE}, address {CODE}, "
        "request {HASH}, items {BYTES}, result {BYTES}, state {CODE}, attempts {INT}, next_attempt {INT}, "
        "received {INT}, problem {TEXT}){OPTIONS}",
        "CREATE UNIQUE INDEX commitment_transaction ON commitment (transaction_uid, calling)",
        "CREATE INDEX commitment_state ON commitment (state, next_attempt)",
        # Who knocked and was refused.
        "CREATE TABLE refusal (id {SERIAL}, digest {HASH}, address {CODE}, calling {CODE}, called {CODE}, "
        "reason {TEXT}, first_time {CODE}, last_time {CODE}, times {INT}){OPTIONS}",
        "CREATE UNIQUE INDEX refusal_digest ON refusal (digest)",
        "CREATE INDEX refusal_last_time ON refusal (last_time)",
    ),
    (
        # Without a code the reason is a sentence of an earlier version, else the values for the code's placeholders.
        "ALTER TABLE refusal ADD COLUMN code {CODE} DEFAULT ''",
        # Of each caller what it asked for last, and the last associations.
        "CREATE TABLE contact (id {SERIAL}, digest {HASH}, calling {CODE}, address {CODE}, device {KEY}, "
        "operation {CODE}, first_time {CODE}, last_time {CODE}, status {INT}, instances {INT}, times {INT}){OPTIONS}",
        "CREATE UNIQUE INDEX contact_digest ON contact (digest)",
        "CREATE INDEX contact_last_time ON contact (last_time)",
        "CREATE TABLE past_association (id {SERIAL}, time {CODE}, calling {CODE}, address {CODE}, called {CODE}, "
        "device {KEY}, ending {CODE}, tally {TEXT}){OPTIONS}",
    ),
    (
        # From a name to its patients and from a patient to the studies within the index alone: each row beside it would
        # be a page more to read. With a million studies this takes some seconds, once.
        "CREATE INDEX patient_name_person ON patient_name (name, patient_id)",
        "DROP INDEX patient_name_name ON patient_name",
        "CREATE INDEX study_person_study ON study_person (patient_id, study_id)",
        "DROP INDEX study_person_patient ON study_person",
    ),
    (
        # When the instance came of which the row is; without it, it stays as it is.
        "ALTER TABLE patient ADD COLUMN received {CODE} DEFAULT ''",
        "ALTER TABLE series ADD COLUMN received {CODE} DEFAULT ''",
    ),
    (
        # Whoever adds a content counts its version from those that are there: of two who add the same one at a time,
        # the second finds the version taken.
        "DROP INDEX instance_uid_content ON instance",
    ),
)
"""Migration 1 is the first; a statement once released never changes, a change is a further migration."""


def statements(engine: str, version: int) -> list[str]:
    """Return the SQL of one migration for an engine, 'sqlite' or 'mysql'."""
    out = []
    for statement in MIGRATIONS[version - 1]:
        if engine == "sqlite":
            statement = re.sub(r"^(DROP INDEX \w+) ON \w+", r"\1", statement.replace("(185)", ""))
        out.append(statement.format(**TYPES[engine]))
    return out
