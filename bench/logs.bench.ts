/**
 * What logs cost: the processor time of a node whose eight builds print 10 MB/s each, which nobody reads; of
 * its daemon alone and of its executor; and with three readers who follow one of them from another node.
 */
import { readdirSync, statSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { get } from 'node:http'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { openCluster, until, type Cluster, type Daemon } from '../scripts/cluster.ts'
import { JobView } from '../src/wire/api.ts'
import { askDaemon } from './daemon-api.ts'
import { cpuSeconds, ownCpuSeconds } from './processes.ts'
import { figure, timed, type Context, type Figures, type Subject } from './subject.ts'

const BUILDS = 8
const READERS = 3
const WINDOW_MS = 5_000
/** Each build prints for so long: two windows, and what starting takes. */
const PRINT_S = 40

/** 100 kB in lines of 100 bytes each 10 ms, however late it woke up. */
const SCRIPT = `use Time::HiRes qw(time sleep); my $block = ("x" x 99 . "\\n") x 1000; my $end = time + ${PRINT_S}; my $at = time; while (time < $end) { syswrite STDOUT, $block; $at += 0.01; my $left = $at - time; sleep $left if $left > 0 } open my $out, ">", $ENV{out}; print $out "done"`

function graph(): string {
  const derivations = Array.from({ length: BUILDS }, (_, at) =>
    [
      `[derivation.talk${at}]`,
      'builder = "/usr/bin/perl"',
      `args = ["-e", '''${SCRIPT}''']`,
      'sealed = false',
      `env = { N = "${at}" }`,
      'run = { max-log = "4 GiB" }',
    ].join('\n'),
  )
  return `mesh = 1\n${derivations.join('\n')}\n`
}

async function jobsOf(daemon: Daemon): Promise<JobView[]> {
  return z.array(JobView).parse(JSON.parse(await askDaemon(daemon, 'GET', '/api/jobs')))
}

/** Follows a log and counts what comes; ends when the signal aborts. */
function follow(daemon: Daemon, job: string, signal: AbortSignal): { bytes: number } {
  const counted = { bytes: 0 }
  const path = `/api/jobs/${job}/log?follow=1`
  get({ socketPath: daemon.file.socket, path, agent: false, signal }, (response) => {
    response.on('data', (piece: Buffer) => (counted.bytes += piece.byteLength))
    response.on('error', () => {
      // It was left.
    })
  }).on('error', () => {
    // It was left.
  })
  return counted
}

interface Used {
  /** Processor seconds per second. */
  readonly all: number
  readonly daemon: number
  /** MB/s. */
  readonly printedMb: number
}

const ownSeconds = (pids: readonly number[]): number =>
  pids.reduce((sum, pid) => sum + ownCpuSeconds(pid), 0)

/** What the logs of all builds that run have together. */
function spooledBytes(workers: readonly Daemon[]): number {
  return workers
    .map(({ directory }) => join(directory, 'build'))
    .flatMap((build) => readdirSync(build).map((attempt) => join(build, attempt, 'log')))
    .reduce((sum, path) => sum + (statSync(path, { throwIfNoEntry: false })?.size ?? 0), 0)
}

async function use(workers: readonly Daemon[], signal: AbortSignal): Promise<Used> {
  const pids = workers.map(({ pid }) => pid)
  const spooled = spooledBytes(workers)
  const all = cpuSeconds(pids)
  const daemon = ownSeconds(pids)
  const tookMs = await timed(() => delay(WINDOW_MS, undefined, { signal }))
  const perSecond = 1000 / tookMs
  return {
    printedMb: ((spooledBytes(workers) - spooled) / 1e6) * perSecond,
    all: (cpuSeconds(pids) - all) * perSecond,
    daemon: (ownSeconds(pids) - daemon) * perSecond,
  }
}

async function measure(cluster: Cluster, { signal, log }: Context): Promise<Figures> {
  const root = await cluster.start({ name: 'root', role: 'root' })
  // A node offers no more processors than it has: a small machine needs several for eight builds.
  const each = Math.min(BUILDS, availableParallelism())
  const workers = await Promise.all(
    Array.from({ length: Math.ceil(BUILDS / each) }, (_, at) =>
      cluster.start({
        name: `worker${at}`,
        role: 'worker,store',
        listen: 'none',
        cpus: each,
        parents: [root],
        args: ['--isolation', 'host'],
      }),
    ),
  )
  const file = join(cluster.directory, 'logs.mesh.toml')
  await writeFile(file, graph())
  await cluster.mesh(root, ['submit', '-d', file])
  const jobs = await until('all builds to print', async () => {
    const all = await jobsOf(root)
    return all.filter(({ attempts }) => attempts.at(-1)?.state === 'building').length === BUILDS
      ? all
      : undefined
  })
  log(`${BUILDS} builds print 10 MB/s each`)
  const alone = await use(workers, signal)
  const [first] = jobs
  if (first === undefined) throw new Error('there is no job')
  const stop = new AbortController()
  const readers = Array.from({ length: READERS }, () => follow(root, first.id, stop.signal))
  await until('the readers to have caught up somewhat', async () =>
    readers.every(({ bytes }) => bytes > 1_000_000) ? true : undefined,
  )
  const before = readers.map(({ bytes }) => bytes)
  const read = await use(workers, signal)
  const perReader = readers.map(({ bytes }, at) => (bytes - (before[at] ?? 0)) / WINDOW_MS / 1000)
  stop.abort()
  return {
    nodes: figure(workers.length, 'daemons for 8 builds'),
    'printed, all builds, nobody reads': figure(alone.printedMb, 'MB/s'),
    'printed, all builds, with readers': figure(read.printedMb, 'MB/s'),
    'daemons, nobody reads': figure(alone.daemon * 100, '%'),
    'daemons and executors, nobody reads': figure(alone.all * 100, '%'),
    [`daemons, ${READERS} readers of one log`]: figure(read.daemon * 100, '%'),
    [`daemons and executors, ${READERS} readers`]: figure(read.all * 100, '%'),
    'slowest reader': figure(Math.min(...perReader), 'MB/s'),
  }
}

export const subject: Subject = {
  name: 'logs',
  async run(context) {
    await using cluster = await openCluster('mesh-bench', { signal: context.signal })
    return await measure(cluster, context)
  },
}
