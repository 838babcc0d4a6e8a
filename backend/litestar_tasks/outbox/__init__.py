"""The application's own database: the only room that knows SQLAlchemy.

A call that is part of a transaction is written as a row into the outbox, a table of the app's own metadata, or, where
the broker is that very database, as the job itself. A row that is committed is delivered to the broker: at once by the
process that committed it, or by a worker, if that process ended in between.

Nothing of a row is kept in memory. After a commit the relay only gets told which transaction to look for, and reads
what the database says: so a savepoint that was rolled back, or a commit that did not come to be, needs no thought. Each
row becomes a job once, because the broker notes its name in the step that stores the job; locks only save work.
Nobody is told of rows by NOTIFY: within a transaction it would cost each request a second statement, and Postgres would
make all their commits wait for each other, while the process that commits delivers at once anyway.

The parts: ``session`` finds the app's sessions, ``database`` the database and what is wrong with it, ``models`` is the
table, ``rows`` what is asked of it, ``writer`` takes calls into transactions, ``direct`` stores jobs in the broker's
own table, ``relay`` delivers rows, ``outbox`` puts them together, and is what an operator asks.
"""
