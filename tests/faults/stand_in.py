"""Until workers.sweeper is there."""
import time
import structlog
from shared.settings import settings_from_environment
from shared.dispatch import *
from shared.job_store import JobStore
from shared.farm_state import FarmState
from shared.endings import fail_job, follow_up_end
from shared.object_store import object_store_from_url
from workers.losses import follow_loss
from shared.errors import *
s = settings_from_environment()
jobs = JobStore(s.redis_url, s.lease_s); farm = FarmState(jobs.redis); app = celery_app(s); d = Dispatcher(app)
objects = object_store_from_url(s.storage_url, s.s3_endpoint_url, s.s3_public_endpoint_url)
def sweep():
    fence = farm.begin_sweep(5)
    if not fence: return
    for job_id, item, worker in jobs.overdue(fence, 3):
        reason = f"{worker} says nothing"
        r = jobs.give_back_overdue(job_id, item, reason, fence)
        if r:
            print("overdue", job_id, item, worker, flush=True)
            follow_loss(job_id, item, r, reason, jobs, d, lambda f, j=job_id: fail_job(j, f, jobs, objects, d))
    for j in jobs.redis.smembers("riffarm:jobs:active"):
        m = jobs.mend(j, fence)
        if m:
            print("mended", j, m, flush=True)
            d.send_tickets(m.queues)
    for j in jobs.redis.smembers("riffarm:jobs:ended"):
        follow_up_end(j, jobs, objects, d)
    d.send_tickets(farm.queues_without_ticket())
    farm.end_sweep(fence)
while True:
    try: sweep()
    except Exception as e: print(repr(e), flush=True)
    time.sleep(1)
