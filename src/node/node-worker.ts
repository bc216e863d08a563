/** The worker of a node: what it can build, and the parts that build it. */
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import type { Executor } from '../build/executor.ts'
import { AttemptRecords, defaultKeepBytes, type AttemptRecord } from '../build/attempt-records.ts'
import { CONTROLS } from '../build/groups/group-places.ts'
import { acceptanceChecks } from '../build/acceptance-checks.ts'
import { openMaterialised } from '../build/materialised.ts'
import { measureSpeed } from '../build/measure-speed.ts'
import { Shells, type ShellDeps } from '../build/shells.ts'
import { Worker } from '../build/worker.ts'
import { formatSize } from '../base/units.ts'
import type { FileWorkers } from '../files/workers/file-workers.ts'
import type { FsBlobStore } from '../store/fs-blob-store.ts'
import type { Signer } from '../wire/result.ts'
import type { Resources } from '../wire/work-messages.ts'
import type { Blobs } from './blobs/blobs.ts'
import type { Config } from './config/config.ts'
import { openPolicy } from './policy/open-policy.ts'
import { Machine, machineOptions } from './machine.ts'
import { Offer } from './offer.ts'
import { Sessions } from './worker-session.ts'

export interface NodeWorkerDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: FsBlobStore
  readonly blobs: Blobs
  readonly workers: FileWorkers
  readonly executor: Executor
  readonly signer: Signer
  /** An attempt has ended, and its log is kept. */
  readonly onRecord: (record: AttemptRecord) => void
}

/** What it needs is disposed of by the stack. */
export async function openNodeWorker(
  deps: NodeWorkerDeps,
  config: Config,
  stack: AsyncDisposableStack,
): Promise<Sessions> {
  const { clock, log, store, blobs, workers, executor, signer } = deps
  const { imageProblem } = executor.sandbox
  const machine = stack.use(
    await Machine.open({ clock, log, executor }, { data: config.data, ...machineOptions(config) }),
  )
  const trees = stack.use(
    await openMaterialised({ store, log, workers }, { directory: join(config.data, 'trees') }),
  )
  stack.use(store.onSpace(({ state }) => (state === 'full' ? trees.trim() : undefined)))
  const records = await AttemptRecords.open(
    { clock, log, leases: store.leases, onAdded: deps.onRecord },
    {
      path: join(config.data, 'attempts.ndjson'),
      keepMs: config.keepLogsMs,
      keepBytes: config.keepLogsBytes ?? (await defaultKeepBytes(config.data, config.quotaBytes)),
    },
  )
  stack.defer(() => records.flush())
  stack.use(store.onSpace(({ state }) => (state === 'full' ? records.giveWay() : undefined)))
  const obtain: ShellDeps['obtain'] = (entry, options) => blobs.obtain(entry, options)
  const hold: ShellDeps['hold'] = (entries) =>
    store.leases.use(entries.filter((entry) => entry.kind !== 'symlink'))
  const worker = new Worker(
    {
      records,
      clock,
      log: log.child({ component: 'worker' }),
      store,
      trees,
      workers,
      executor,
      obtain,
      get systems() {
        return machine.systems
      },
      hold,
      signer,
      space: () => store.space(),
      speed: () => sessions.offer?.speed ?? 1,
      onChange: () => {
        sessions.slots?.refresh()
        sessions.changed()
      },
      ...(config.checks.length === 0
        ? {}
        : {
            checks: acceptanceChecks(
              { executor, onNote: (note) => sessions.checked(note) },
              { paths: config.checks, node: config.name },
            ),
          }),
    },
    { name: config.name, directory: join(config.data, 'build'), mirrors: config.mirrors },
  )
  const offer = new Offer({ host: machine, log }, capacityOf(machine))
  const sessions = new Sessions(worker, offer)
  await openPolicy({ clock, log, sessions, offer, worker }, config, stack)
  sessions.machine = machine
  machine.onChange = () => {
    offer.capacity = capacityOf(machine)
    sessions.policy?.resized()
    sessions.slots?.refresh()
    sessions.changed()
    void offer.probeAgain().then((hasChanged) => {
      if (hasChanged) sessions.changed()
    })
  }
  sessions.shells = new Shells(
    { trees, executor, machine, workers, obtain, hold },
    { data: config.data, directory: join(config.data, 'build') },
  )
  await worker.start()
  stack.defer(() => worker.stop())
  void tellSpeed(sessions, log)
  for (const reason of executor.sandbox.reasons)
    log.info({ reason }, 'a stronger sandbox was not taken')
  for (const reason of executor.controls.reasons)
    log.info({ reason }, 'builds cannot be controlled in one way')
  if (imageProblem !== undefined)
    log.info({ reason: imageProblem }, 'builds cannot have images as their roots')
  if (executor.sandbox.method === 'none')
    log.warn('builds run without walls: this node serves only derivations that say sealed = false')
  return sessions
}

function capacityOf({ offered }: Machine): Resources {
  return {
    cpus: offered.cpus.value,
    memoryBytes: offered.memoryBytes.value,
    diskBytes: offered.diskBytes,
  }
}

/** Without a measurement a node counts as the reference machine until jobs show better. */
async function tellSpeed(sessions: Sessions, log: Logger): Promise<void> {
  try {
    const speed = await measureSpeed()
    log.info({ speed }, 'speed of a processor was measured')
    sessions.measured(speed)
  } catch (error) {
    log.warn({ err: error }, 'speed of a processor could not be measured')
  }
}

export async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}

/** What the start-up banner says of the worker. */
export function describeWorker(
  { sandbox, controls }: Executor,
  { capacity, environments }: Offer,
): string {
  const { cpus, memoryBytes, diskBytes } = capacity
  const kinds = environments
    .filter(({ isolation }) => isolation !== 'image')
    .map(({ system, isolation, label }) => `${system} ${isolation} (${label})`)
  const images = environments.filter(({ isolation }) => isolation === 'image')
  if (images.length > 0)
    kinds.push(
      `images of ${images.map(({ system, machine }) => (machine === undefined ? system : `${system} (emulated)`)).join(', ')}`,
    )
  const walls =
    sandbox.method === 'none'
      ? 'no walls: only unsealed builds'
      : `sealed builds by ${sandbox.method}`
  return `${cpus} cpus, ${formatSize(memoryBytes)} memory, ${formatSize(diskBytes)} disk; ${kinds.join(', ')}; ${walls}${describeControls(controls)}`
}

/** Which limits builds here do not have; nothing where they have all. */
function describeControls({ of }: Executor['controls']): string {
  const missing = CONTROLS.filter((control) => of[control] === undefined)
  return missing.length === 0 ? '' : `; no control of ${missing.join(', ')} by control groups`
}
