-- The newest done job of a kind, and the newest whose report needs attention, are asked at each
-- look at the queue. Without these indexes each look reads all jobs that were done since.
CREATE INDEX jobs_done ON jobs (kind, finished_at) WHERE state = 'done';
CREATE INDEX jobs_attention ON jobs (kind, finished_at) WHERE state = 'done' AND attention = 1;
