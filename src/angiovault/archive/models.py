"""peewee models of the index's tables; the tables themselves are made by `schema`.

One process has one index: the models are bound to it when it is opened.
"""

from __future__ import annotations

from peewee import AutoField, BigIntegerField, BlobField, CharField, IntegerField, Model, TextField


class Archive(Model):
    """Facts about the archive: its id and the schema's version."""

    name = CharField(primary_key=True)
    value = TextField()


class Patient(Model):
    """A patient as Patient ID and issuer tell them apart."""

    id = AutoField()
    identity = CharField()
    patient_id = CharField()
    birth_date = CharField()
    head = BlobField()
    received = CharField()


class PatientName(Model):
    """One search key of a patient's name."""

    id = AutoField()
    patient_id = BigIntegerField()
    name = CharField()

    class Meta:
        """Table name."""

        table_name = "patient_name"


class Study(Model):
    """A study with its counts over current instances."""

    id = AutoField()
    uid = CharField()
    patient_id = BigIntegerField()
    person = CharField()
    patients_differ = IntegerField()
    study_date = CharField()
    study_time = CharField()
    accession_number = CharField()
    study_id = CharField()
    description = CharField()
    modalities = TextField()
    sop_classes = TextField()
    series_count = IntegerField()
    instance_count = IntegerField()
    byte_count = BigIntegerField()
    received = CharField()
    head = BlobField()


class StudyPerson(Model):
    """A patient met in a study."""

    id = AutoField()
    study_id = BigIntegerField()
    patient_id = BigIntegerField()

    class Meta:
        """Table name."""

        table_name = "study_person"


class Series(Model):
    """A series with its counts over current instances."""

    id = AutoField()
    study_id = BigIntegerField()
    uid = CharField()
    modality = CharField()
    series_number = BigIntegerField(null=True)
    description = CharField()
    instance_count = IntegerField()
    byte_count = BigIntegerField()
    head = BlobField()
    received = CharField()


class Folder(Model):
    """A folder of instance files, relative to the storage root."""

    id = AutoField()
    digest = CharField()
    path = TextField()


class Instance(Model):
    """One kept file: a version of a SOP instance."""

    id = AutoField()
    uid = CharField()
    version = IntegerField()
    content = CharField()
    current = IntegerField()
    series_id = BigIntegerField()
    sop_class = CharField()
    transfer_syntax = CharField()
    instance_number = BigIntegerField(null=True)
    digest = CharField()
    size = BigIntegerField()
    folder_id = BigIntegerField()
    file = CharField()
    received = CharField()
    calling = CharField()
    complete = IntegerField()
    head = BlobField()


class Commitment(Model):
    """A storage commitment request and, when there is one, its result."""

    id = AutoField()
    transaction_uid = CharField()
    calling = CharField()
    called = CharField()
    address = CharField()
    request = CharField()
    items = BlobField()
    result = BlobField()
    state = CharField()
    attempts = IntegerField()
    next_attempt = BigIntegerField()
    received = BigIntegerField()
    problem = TextField()


class Refusal(Model):
    """A device that knocked and was refused."""

    id = AutoField()
    digest = CharField()
    address = CharField()
    calling = CharField()
    called = CharField()
    code = CharField()
    reason = TextField()
    first_time = CharField()
    last_time = CharField()
    times = IntegerField()


class Contact(Model):
    """What a caller asked for: the first and the last time, and the result of the last."""

    id = AutoField()
    digest = CharField()
    calling = CharField()
    address = CharField()
    device = CharField()
    operation = CharField()
    first_time = CharField()
    last_time = CharField()
    status = IntegerField()
    instances = IntegerField()
    times = IntegerField()


class PastAssociation(Model):
    """One of the last associations."""

    id = AutoField()
    time = CharField()
    calling = CharField()
    address = CharField()
    called = CharField()
    device = CharField()
    ending = CharField()
    tally = TextField()

    class Meta:
        """Table name."""

        table_name = "past_association"


_OF_INSTANCES = (Archive, Patient, PatientName, Study, StudyPerson, Series, Folder, Instance)
ALL = (*_OF_INSTANCES, Commitment, Refusal, Contact, PastAssociation)
