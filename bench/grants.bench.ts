/**
 * Durable grants per second: a real owner with its journal on a real disk, and nodes that end whatever
 * they are granted at once. What the nodes do themselves does not count: it is subtracted from the time.
 *
 * Every grant is on the disk before its node hears of it; writes are grouped. The peer of the facts is the
 * same disk without us: batches of 100 puts of the same size, each synced.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { systemClock } from '../src/base/clock.ts'
import { openJournal, type Journal } from '../src/node/owner/journal.ts'
import { Owner } from '../src/node/owner/owner.ts'
import { openActionCache } from '../src/store/action-cache.ts'
import { openLevel } from '../src/store/blob-index.ts'
import { encodeObject } from '../src/wire/cbor.ts'
import { Fact } from '../src/wire/facts.ts'
import { derivation, requestWire } from '../test/scheduler/samples.ts'
import { newSigner, PullingNode, type Pulling } from './farm/pulling-nodes.ts'
import { compared, figure, median, timed, type Figure, type Subject } from './subject.ts'

/** Processors of each node: what it takes in one message. */
const CPUS = 32
const JOBS = { quick: 6_000, long: 60_000 }
/** Derivations of one request. */
const BATCH = 2_000
const NODE_COUNTS = { quick: [1, 16, 256], long: [1, 4, 16, 64, 256, 1_024] }
const RAW_MS = 1_500
const RAW_BATCH = 100

/** What became of the time. */
interface Outcome {
  readonly grants: number
  readonly wallMs: number
  /** Of the nodes, which elsewhere have machines of their own. */
  readonly nodesMs: number
  readonly schedulerMs: number
  readonly framesMs: number
  /** Checking the builder's signature. */
  readonly verifyMs: number
  /** Waiting for results to be stored, which comes before the facts that name them; summed over all of them. */
  readonly commitMs: number
  readonly encodeMs: number
  /** Writes overlap with everything else. */
  readonly writeMs: number
  readonly facts: number
  readonly writes: number
  readonly factBytes: number
}

/** Counts what passes through, and how long it takes. */
class MeteredJournal implements Journal {
  readonly #inner: Journal
  encodeMs = 0
  writeMs = 0
  facts = 0
  writes = 0
  sample: readonly Fact[] = []

  constructor(inner: Journal) {
    this.#inner = inner
  }
  get length(): number {
    return this.#inner.length
  }
  replay(): AsyncIterable<Fact> {
    return this.#inner.replay()
  }
  async append(facts: readonly Fact[]): Promise<void> {
    const startedAt = performance.now()
    // All encoding is done before the first wait.
    const written = this.#inner.append(facts)
    const encodedAt = performance.now()
    await written
    this.encodeMs += encodedAt - startedAt
    this.writeMs += performance.now() - encodedAt
    this.facts += facts.length
    this.writes += Number(facts.length > 0)
    if (facts.length > this.sample.length) this.sample = facts
  }
  compact(isNeeded: (fact: Fact) => boolean, more?: Iterable<Fact>): Promise<void> {
    return this.#inner.compact(isNeeded, more)
  }
  reset(): void {
    this.encodeMs = this.writeMs = this.facts = this.writes = 0
    this.sample = []
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inner[Symbol.asyncDispose]()
  }
}

async function measure(
  directory: string,
  jobs: number,
  nodeCount: number,
  mode: Pick<Pulling, 'outcome' | 'messages'>,
): Promise<Outcome> {
  const log = pino({ level: 'silent' })
  await using journal = new MeteredJournal(
    await openJournal({ directory: join(directory, 'journal') }),
  )
  await using actions = await openActionCache({ log }, { directory: join(directory, 'actions') })
  const signer = newSigner()
  let commitMs = 0
  const keep = actions.keep.bind(actions)
  actions.keep = async (cached) => {
    const startedAt = performance.now()
    await keep(cached)
    commitMs += performance.now() - startedAt
  }
  const owner = new Owner({
    clock: systemClock(),
    log,
    journal,
    actions,
    signer,
    ownBlobBytes: () => 0,
    onResult: () => {},
    providersOf: () => [],
    onCopy: () => {},
    onCheck: () => {},
    hasParents: false,
    onUplink: () => {},
    resultsAbove: async () => [],
    onCommitted: () => {},
  })
  await owner.start()
  for (let from = 0; from < jobs; from += BATCH) {
    const derivations = Array.from({ length: Math.min(BATCH, jobs - from) }, (_, at) =>
      derivation(`d${at}`, { args: [`${from + at}`] }),
    )
    const wanted = [derivations[0]?.name ?? '']
    const request = requestWire(`request ${from}`, derivations, { wanted, keepGoing: true })
    await owner.submit(request)
  }
  // Every job is looked up in the cache before it waits.
  while (owner.scheduler.state.jobs.values().some(({ phase }) => phase === 'lookup'))
    await new Promise((resolve) => void setImmediate(resolve))
  await owner.synced()
  journal.reset()

  let schedulerMs = 0
  const { scheduler } = owner
  const apply = scheduler.apply.bind(scheduler)
  scheduler.apply = (event, moment) => {
    const startedAt = performance.now()
    const effects = apply(event, moment)
    schedulerMs += performance.now() - startedAt
    return effects
  }
  let syncMs = 0
  const sync = owner.sync.bind(owner)
  owner.sync = (peerId, message) => {
    const before = performance.now() - schedulerMs
    sync(peerId, message)
    syncMs += performance.now() - schedulerMs - before
  }
  const self = { peerId: signer.peerId, name: 'root' }
  const nodes = Array.from(
    { length: nodeCount },
    (_, at) => new PullingNode({ owner, cpus: CPUS, self, ...mode }, `n${at}`),
  )
  const grantsOf = (): number => nodes.reduce((sum, node) => sum + node.grantCount, 0)
  const wallMs = await timed(async () => {
    for (const node of nodes) node.start()
    while (grantsOf() < jobs) await new Promise((resolve) => void setImmediate(resolve))
    await owner.synced()
  })
  for (const node of nodes) node.stop()
  await owner.stop()
  const sample = journal.sample.map((fact) => encodeObject(Fact, fact).byteLength)
  return {
    grants: grantsOf(),
    wallMs,
    nodesMs: nodes.reduce((sum, node) => sum + node.ownMs, 0),
    schedulerMs,
    framesMs: nodes.reduce((sum, node) => sum + node.framesMs, 0),
    verifyMs: syncMs,
    commitMs,
    encodeMs: journal.encodeMs,
    writeMs: journal.writeMs,
    facts: journal.facts,
    writes: journal.writes,
    factBytes: median(sample),
  }
}

/** Synced puts per second of Level alone. */
async function rawPuts(directory: string, bytes: number): Promise<number> {
  const db = await openLevel(join(directory, 'raw'))
  try {
    const value = Buffer.alloc(bytes, 1)
    let count = 0
    const untilMs = performance.now() + RAW_MS
    const wallMs = await timed(async () => {
      while (performance.now() < untilMs) {
        const batch = Array.from({ length: RAW_BATCH }, () => {
          const key = Buffer.alloc(13)
          key.writeUInt32BE((count += 1), 9)
          return { type: 'put' as const, key, value }
        })
        await db.batch(batch, { sync: true })
      }
    })
    return (count / wallMs) * 1_000
  } finally {
    await db.close()
  }
}

const MODES = [
  { name: 'owner and journal', outcome: 'failed', messages: 'objects' },
  { name: 'with messages as frames', outcome: 'failed', messages: 'frames' },
  { name: 'with signed results', outcome: 'built', messages: 'frames' },
] as const

export const subject: Subject = {
  name: 'grants',
  async run({ log, scale, signal }) {
    const root = await mkdtemp(join(tmpdir(), 'mesh-bench-'))
    const figures: Record<string, Figure> = {}
    try {
      for (const mode of MODES) {
        for (const nodeCount of NODE_COUNTS[scale]) {
          signal.throwIfAborted()
          const directory = await mkdtemp(join(root, 'owner-'))
          const outcome = await measure(directory, JOBS[scale], nodeCount, mode)
          const ownMs = outcome.wallMs - outcome.nodesMs
          const perSecond = (outcome.grants / ownMs) * 1_000
          const name = `${mode.name}, ${nodeCount} nodes`
          const perGrant = (ms: number): string =>
            ((ms * 1_000) / outcome.grants).toFixed(1).padStart(6)
          log(
            `${name}: ${perSecond.toFixed()} grants/s; us per grant: scheduler${perGrant(outcome.schedulerMs)}, facts encoded${perGrant(outcome.encodeMs)}, frames${perGrant(outcome.framesMs)}, verifying${perGrant(outcome.verifyMs)}, storing results${perGrant(outcome.commitMs)}, writes (beside the rest)${perGrant(outcome.writeMs)}; ${(outcome.facts / outcome.writes).toFixed()} facts a write`,
          )
          figures[`${name}, durable grants`] = figure(perSecond, '/s', 'target 20000')
          figures[`${name}, scheduler`] = figure(
            (100 * outcome.schedulerMs) / ownMs,
            '% of the time',
          )
          figures[`${name}, encoding facts`] = figure(
            (100 * outcome.encodeMs) / ownMs,
            '% of the time',
          )
          if (mode.messages === 'frames')
            figures[`${name}, messages`] = figure((100 * outcome.framesMs) / ownMs, '% of the time')
          if (mode.outcome === 'built') {
            figures[`${name}, verifying`] = figure(
              (100 * outcome.verifyMs) / ownMs,
              '% of the time',
            )
            // Several are waited for at once.
            figures[`${name}, storing a result`] = figure(
              (outcome.commitMs * 1_000) / outcome.grants,
              'us',
            )
          }
          figures[`${name}, a write under way`] = figure(
            (100 * outcome.writeMs) / ownMs,
            '% of the time',
          )
          if (nodeCount === NODE_COUNTS[scale].at(-1))
            figures[`${name}, facts`] = compared(
              (outcome.facts / ownMs) * 1_000,
              '/s',
              await rawPuts(directory, outcome.factBytes),
            )
          await rm(directory, { recursive: true })
        }
      }
    } finally {
      await rm(root, { recursive: true, force: true })
    }
    return figures
  },
}
