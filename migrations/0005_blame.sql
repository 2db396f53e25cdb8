-- Who is to blame for a process's end. In normal operation nothing is written for it: a lease that
-- was never given back tells that its owner died. Only after that does the successor note, until
-- what waited then is analysed, which journal rows it is about to analyse. Whoever finds such a
-- note adds one to these rows' `attempts`, which from now on counts deaths and not readings.
alter table culprit.leases add column analysing uuid[];
update culprit.journal set attempts = 0 where attempts > 0;
