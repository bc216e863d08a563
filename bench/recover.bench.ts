/**
 * How long a tree of real daemons takes to be itself again after `kill -9` of a leaf, a node in the middle
 * and the root: until what ran there runs again, or is known again to run. The killed one is started again
 * at once where that is what heals.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { openCluster, type Cluster, type Daemon } from '../scripts/cluster.ts'
import { JobView, NodeView } from '../src/wire/api.ts'
import { askDaemon } from './daemon-api.ts'
import { figure, type Context, type Subject } from './subject.ts'

const POLL_MS = 20
const WAIT_MS_MAX = 60_000
const WORKER = { role: 'worker,store', listen: 'none', args: ['--isolation', 'host'] } as const

/** Asks until the answer will do; a daemon that is away is asked again. */
async function until<T>(
  what: string,
  daemon: Daemon,
  { path, schema, is }: { path: string; schema: z.ZodType<T>; is: (answer: T) => boolean },
  signal: AbortSignal,
): Promise<T> {
  const started = performance.now()
  let last = 'it did not answer'
  while (performance.now() - started < WAIT_MS_MAX) {
    signal.throwIfAborted()
    try {
      last = await askDaemon(daemon, 'GET', path)
      const answer = schema.parse(JSON.parse(last))
      if (is(answer)) return answer
    } catch (error) {
      if (error instanceof z.ZodError) throw error
    }
    await delay(POLL_MS)
  }
  throw new Error(`waited ${WAIT_MS_MAX / 1000} s in vain for ${what}: ${last}`)
}

async function freeAddress(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  if (address === null || typeof address === 'string') throw new Error('no port was given')
  return `/ip4/127.0.0.1/tcp/${address.port}`
}

class Bench {
  readonly #cluster: Cluster
  readonly #signal: AbortSignal
  readonly #place: string

  constructor(cluster: Cluster, signal: AbortSignal) {
    this.#cluster = cluster
    this.#signal = signal
    this.#place = join(cluster.directory, 'place')
    mkdirSync(this.#place)
  }

  async nodes(daemon: Daemon, ...names: readonly string[]): Promise<void> {
    await until(
      names.join(),
      daemon,
      {
        path: '/api/nodes',
        schema: z.array(NodeView),
        is: (nodes) =>
          names.every((name) => nodes.some((node) => node.name === name && node.state === 'ready')),
      },
      this.#signal,
    )
  }

  /** Submits one job that runs until `release`. */
  async hold(daemon: Daemon, name: string): Promise<void> {
    const file = join(this.#place, `${name}.mesh.toml`)
    writeFileSync(
      file,
      `mesh = 1\n[defaults]\nsealed = false\nenv = { PLACE = "${this.#place}" }\n[derivation.${name}]\nbuilder = "/bin/sh"\n` +
        `args = ["-c", 'until [ -e $PLACE/go-${name} ]; do sleep 0.05; done; echo done > $out']\n`,
    )
    const answer = await this.#cluster.mesh(daemon, ['submit', file, '--detach'])
    if (answer.code !== 0) throw new Error(answer.stderr)
  }

  release(name: string): void {
    writeFileSync(join(this.#place, `go-${name}`), '')
  }

  async job(daemon: Daemon, name: string, is: (job: JobView) => boolean): Promise<JobView> {
    const jobs = await until(
      `${name} to be as it should`,
      daemon,
      {
        path: `/api/jobs?name=${name}`,
        schema: z.array(JobView),
        is: ([job]) => job !== undefined && is(job),
      },
      this.#signal,
    )
    const [job] = jobs
    if (job === undefined) throw new Error(`there is no job ${name}`)
    return job
  }
}

const isBuilding = ({ attempts }: JobView): boolean => attempts.at(-1)?.state === 'building'

async function sinceKill(daemon: Daemon, healed: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await daemon.kill()
  await healed()
  return performance.now() - started
}

async function measure({ signal, log }: Context) {
  await using cluster = await openCluster('mesh-bench', { signal })
  const bench = new Bench(cluster, signal)
  const at = { root: await freeAddress(), middle: await freeAddress() }
  const startRoot = (): Promise<Daemon> =>
    cluster.start({ name: 'root', role: 'root,store', listen: at.root })
  let root = await startRoot()
  const startMiddle = (): Promise<Daemon> =>
    cluster.start({ name: 'middle', role: 'store', listen: at.middle, parents: [root] })
  let middle = await startMiddle()
  const startLeaf = (name: string): Promise<Daemon> =>
    cluster.start({ ...WORKER, name, cpus: 1, parents: [middle, root] })
  const leaves = await Promise.all([startLeaf('one'), startLeaf('two')])
  await bench.nodes(root, 'one', 'two')

  await bench.hold(root, 'lost')
  const held = await bench.job(root, 'lost', isBuilding)
  const leaf = leaves.find(({ name }) => name === held.attempts[0]?.node)
  if (leaf === undefined) throw new Error('it runs on none of the leaves')
  const leafMs = await sinceKill(leaf, () =>
    bench.job(root, 'lost', (job) => job.attempts.length === 2 && isBuilding(job)),
  )
  log(`leaf: its job runs elsewhere after ${Math.round(leafMs)} ms`)
  bench.release('lost')
  await startLeaf(leaf.name)
  await bench.nodes(root, 'one', 'two')

  await bench.hold(root, 'kept')
  const kept = await bench.job(root, 'kept', isBuilding)
  const middleMs = await sinceKill(middle, async () => {
    await bench.nodes(root, 'one', 'two')
    await bench.job(root, 'kept', isBuilding)
  })
  log(`middle: its leaves work by way of the root after ${Math.round(middleMs)} ms`)
  const rootMs = await sinceKill(root, async () => {
    root = await startRoot()
    await bench.nodes(root, 'one', 'two')
    await bench.job(root, 'kept', isBuilding)
  })
  log(`root: started again, it knows what runs after ${Math.round(rootMs)} ms`)
  bench.release('kept')
  const end = await bench.job(root, 'kept', ({ state }) => state === 'done')
  middle = await startMiddle()
  return {
    leafMs,
    middleMs,
    rootMs,
    reruns: end.attempts.length - kept.attempts.length,
  }
}

export const subject: Subject = {
  name: 'recover',
  async run(context) {
    const { leafMs, middleMs, rootMs, reruns } = await measure(context)
    return {
      'leaf killed: its job runs elsewhere': figure(leafMs, 'ms'),
      'middle killed: its leaves work by way of the root': figure(middleMs, 'ms'),
      'root killed and started again: it knows what runs': figure(rootMs, 'ms'),
      'attempts that were run again for a dead middle or root': figure(reruns, ''),
    }
  },
}
