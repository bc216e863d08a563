/** The worker of a node: what it can build, and the parts that build it. */
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import type { Executor } from '../build/executor.ts'
import { acceptanceChecks } from '../build/acceptance-checks.ts'
import { cpusOf, memoryBytesOf, openHostEnvironment } from '../build/host-environment.ts'
import { openMaterialised } from '../build/materialised.ts'
import { measureSpeed } from '../build/measure-speed.ts'
import { Worker } from '../build/worker.ts'
import { formatSize } from '../base/units.ts'
import type { FileWorkers } from '../files/workers/file-workers.ts'
import type { FsBlobStore } from '../store/fs-blob-store.ts'
import type { Signer } from '../wire/result.ts'
import type { Blobs } from './blobs/blobs.ts'
import type { Config } from './config/config.ts'
import { Offer, Sessions } from './worker-session.ts'

export interface NodeWorkerDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: FsBlobStore
  readonly blobs: Blobs
  readonly workers: FileWorkers
  readonly executor: Executor
  readonly signer: Signer
}

/** What it needs is disposed of by the stack. */
export async function openNodeWorker(
  deps: NodeWorkerDeps,
  config: Config,
  stack: AsyncDisposableStack,
): Promise<Sessions> {
  const { clock, log, store, blobs, workers, executor, signer } = deps
  const host = await openHostEnvironment({ directory: config.data, sandbox: executor.sandbox })
  const trees = stack.use(
    await openMaterialised({ store, log, workers }, { directory: join(config.data, 'trees') }),
  )
  stack.use(store.onSpace(({ state }) => (state === 'full' ? trees.trim() : undefined)))
  const worker = new Worker(
    {
      clock,
      log: log.child({ component: 'worker' }),
      store,
      trees,
      workers,
      executor,
      obtain: (entry, options) => blobs.obtain(entry, options),
      hold: (entries) => store.leases.use(entries.filter((entry) => entry.kind !== 'symlink')),
      signer,
      speed: () => sessions.offer?.speed ?? 1,
      onChange: () => sessions.changed(),
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
  const capacity = {
    cpus: config.cpus ?? (await cpusOf()),
    memoryBytes: config.memoryBytes ?? (await memoryBytesOf()),
    diskBytes: await freeBytes(config.data),
  }
  const sessions = new Sessions(worker, new Offer({ host, log }, capacity))
  await worker.start()
  stack.defer(() => worker.stop())
  void tellSpeed(sessions, log)
  for (const reason of executor.sandbox.reasons)
    log.info({ reason }, 'a stronger sandbox was not taken')
  if (executor.sandbox.method === 'none')
    log.warn('builds run without walls: this node serves only derivations that say sealed = false')
  return sessions
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
export function describeWorker({ sandbox }: Executor, { capacity, environments }: Offer): string {
  const { cpus, memoryBytes, diskBytes } = capacity
  const kinds = environments.map(
    ({ system, isolation, label }) => `${system} ${isolation} (${label})`,
  )
  const walls =
    sandbox.method === 'none'
      ? 'no walls: only unsealed builds'
      : `sealed builds by ${sandbox.method}`
  return `${cpus} cpus, ${formatSize(memoryBytes)} memory, ${formatSize(diskBytes)} disk; ${kinds.join(', ')}; ${walls}`
}
