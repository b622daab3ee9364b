from greenworker import errors as errors
from greenworker.app import App as App
from greenworker.backoff import Backoff as Backoff
from greenworker.children import spawn as spawn
from greenworker.context import CurrentTask as CurrentTask
from greenworker.context import current_task as current_task
from greenworker.dead import DeadLetter as DeadLetter
from greenworker.errors import Cancelled as Cancelled
from greenworker.errors import SoftTimeout as SoftTimeout
from greenworker.hosts import host as host
from greenworker.message import Message as Message
from greenworker.message import State as State
from greenworker.middleware import Middleware as Middleware
from greenworker.result import Info as Info
from greenworker.result import Result as Result
from greenworker.result import Results as Results
from greenworker.retry_header import retry_after as retry_after
from greenworker.schedule import ScheduleInfo as ScheduleInfo
from greenworker.seen import Seen as Seen
from greenworker.task import Task as Task
from greenworker.verdicts import Ignore as Ignore
from greenworker.verdicts import Reject as Reject
from greenworker.verdicts import Retry as Retry
from greenworker.verdicts import Snooze as Snooze
from greenworker.verdicts import Throttled as Throttled
from greenworker.worker import Worker as Worker

__version__: str
