"""The rows that the bench makes directly are those that the archive would have made of the same images."""

import sqlite3
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from angiovault.archive.index import Index
from angiovault.indexurl import IndexURL
from bench import large_data, large_index


def _tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    return {table: connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in large_data.TABLES}


def test_the_indexes_are_those_of_the_archive_s_tables(tmp_path: Path) -> None:
    index = Index(IndexURL.parse("sqlite:///index", tmp_path))
    index.open("0" * 32, complete=True)
    index.close()
    there = sqlite3.connect(tmp_path / "index").execute("SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'")
    of_tables = {(table, name) for table, name in there if table in large_data.TABLES}
    assert {(table, name) for table, name, _ in large_index._indexes("sqlite")} == of_tables


def test_the_rows_are_those_of_the_index_itself(tmp_path: Path) -> None:
    studies = range(0, 8)
    index = Index(IndexURL.parse("sqlite:///index", tmp_path))
    index.open("0" * 32, complete=True)
    for study in studies:
        for entry in large_data.entries(study):
            assert index.add(entry) == "stored"
    index.close()
    own = _tables(tmp_path / "index")
    made = large_data.rows(studies)
    # The ids of names have gaps; in all else the rows are the same, ids and all.
    own["patient_name"] = [row[1:] for row in own["patient_name"]]
    made["patient_name"] = [row[1:] for row in made["patient_name"]]
    assert len(own["patient_name"]) > len(own["patient"])  # in Chinese characters, too
    assert len(own["instance"]) == len(studies) * large_data.SERIES * large_data.IMAGES
    assert made == own
