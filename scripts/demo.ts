/**
 * `npm run demo -- [--json] [--keep] [--example leveldb|text]`: a mesh of four daemons on this machine
 * builds a real library, and tells what happened.
 *
 * `root` schedules and stores nothing, `dev` is a developer's machine, `w1` and `w2` build with one
 * processor each. Data directories and ports are fresh, and everything is stopped at the end.
 */
import { accessSync, constants } from 'node:fs'
import { appendFile, cp, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { sourcesDirectory } from '../examples/leveldb/steps.ts'
import { EXIT, messageOf } from '../src/base/errors.ts'
import { JobView } from '../src/wire/api.ts'
import { interruptSignal, lastJson, openCluster, type Cluster, type Daemon } from './cluster.ts'
import { RESULT, startSmallMesh, submit, SubmitFailed } from './small-mesh.ts'

const EXAMPLES = join(import.meta.dirname, '../examples')

/** An example with its own copy of the sources, which the demo may change. */
interface Staged {
  readonly file: string
  readonly env: Readonly<Record<string, string>>
  /** The output that a person wants to see. */
  readonly result: string
  readonly edits: readonly { readonly what: string; apply(): Promise<void> }[]
}

async function stageLeveldb(directory: string, sealed: boolean): Promise<Staged> {
  const sources = join(directory, 'sources')
  await cp(sourcesDirectory(), sources, { recursive: true })
  const unit = join(sources, 'leveldb/leveldb-1.20/util/hash.cc')
  return {
    file: join(EXAMPLES, 'leveldb/graph.ts'),
    env: { LEVELDB_SOURCES: sources, ...(sealed ? {} : { LEVELDB_SEALED: 'no' }) },
    result: 'run',
    edits: [
      {
        what: 'a function more in util/hash.cc',
        apply: () => appendFile(unit, 'namespace leveldb { int HashVersion() { return 2; } }\n'),
      },
      {
        what: 'a comment more in util/hash.cc',
        apply: () => appendFile(unit, '// Nothing that a compiler would see.\n'),
      },
    ],
  }
}

async function stageText(directory: string, sealed: boolean): Promise<Staged> {
  const sources = join(directory, 'sources')
  await cp(join(EXAMPLES, 'text'), sources, { recursive: true })
  const text = join(sources, 'alice.txt')
  const file = join(sources, 'graph.mesh.toml')
  if (!sealed) await appendFile(file, '\n[defaults]\nsealed = false\n')
  return {
    file,
    env: {},
    result: 'report',
    edits: [
      {
        what: 'a word changed in the last quarter of the text',
        apply: async () =>
          writeFile(
            text,
            (await readFile(text, 'utf8')).replace('a very deep', 'an exceedingly deep'),
          ),
      },
      {
        what: 'an exclamation mark for a full stop',
        apply: async () => writeFile(text, (await readFile(text, 'utf8')).replace(/\.\n$/, '!\n')),
      },
    ],
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false // whatever keeps it from being run, it cannot be used
  }
}
class Failed extends Error {
  readonly exit: number
  constructor(message: string, exit: number) {
    super(message)
    this.exit = exit
  }
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`
const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`

/** How many jobs of the request ran on each node, and how many attempts were lost. */
async function placesOf(cluster: Cluster, dev: Daemon, request: string): Promise<string> {
  const jobs = z
    .array(JobView)
    .parse(lastJson(await cluster.mesh(dev, ['jobs', request, '--json'])))
  const attempts = jobs.flatMap((job) => job.attempts)
  const done = Map.groupBy(
    attempts.filter((attempt) => attempt.state === 'done'),
    (attempt) => attempt.node,
  )
  const places = [...done].map(([node, list]) => `${node} ${list.length}`).toSorted()
  const lost = attempts.filter((attempt) => attempt.state === 'lost').length
  return places.join(', ') + (lost === 0 ? '' : `; ${lost} lost and run again`)
}

async function demo(
  cluster: Cluster,
  options: { json: boolean; keep: boolean; example: string },
): Promise<void> {
  const say = (line: string): void =>
    void (options.json ? process.stderr : process.stdout).write(`${line}\n`)
  say(
    'Starting four nodes: root (schedules), dev (your machine), w1 and w2 (build, one processor each) ...',
  )
  const { root, dev, workers, canSeal } = await startSmallMesh(cluster)
  if (!canSeal)
    say('This machine lets no sandbox be made: builds run as plain processes, unsealed.')
  const stage = options.example === 'text' ? stageText : stageLeveldb
  const staged = await stage(cluster.directory, canSeal)
  const first = await submit(cluster, dev, staged.file, {
    env: staged.env,
    progress: process.stderr.isTTY ? 'tty' : 'plain',
  })

  say(
    `\nBuilt from nothing: ${first.jobs.built} jobs built, ${first.jobs.cached} cached, ${first.jobs.failed} failed`,
  )
  say(`  where they ran               ${await placesOf(cluster, dev, first.request)}`)
  say(
    `  bytes from peers, mirrors    ${mebibytes(first.bytes.peer)}, ${mebibytes(first.bytes.mirror)}`,
  )
  say(`  blob bytes through the root  ${first.bytes.root}`)
  say(
    `  wall time                    ${seconds(first.wallMs)} for ${seconds(first.serialMs)} of work (${(first.serialMs / first.wallMs).toFixed(2)} times as fast as one job after the other)`,
  )
  say(`  its result, ${staged.result}:`)
  const result = await readFile(join(cluster.directory, RESULT, staged.result), 'utf8')
  for (const line of result.trimEnd().split('\n')) say(`    ${line}`)

  const again = await submit(cluster, dev, staged.file, { env: staged.env })
  say(
    `\nThe same again: ${again.jobs.built} built, ${again.jobs.cached} cached, in ${seconds(again.wallMs)}`,
  )
  if (!options.json) {
    for (const edit of staged.edits) {
      await edit.apply()
      const changed = await submit(cluster, dev, staged.file, { env: staged.env })
      say(
        `With ${edit.what}: ${changed.jobs.built} built, ${changed.jobs.cached} cached, in ${seconds(changed.wallMs)}`,
      )
    }
    say(
      '  (only what depends on a change is built, and nothing beyond an output that came out the same)',
    )
  }

  if (options.keep) {
    cluster.keep()
    const pids = [root, dev, ...workers].map((daemon) => daemon.pid).join(' ')
    say(`\nThe nodes go on. Try:
  export MESH_SOCKET=${dev.file.socket}
  bin/mesh status; bin/mesh nodes; bin/mesh jobs
  bin/mesh run -- c++ --version
  kill -9 ${workers[0]?.pid}    # a worker, in the middle of a submit
Stop them: kill ${pids}; rm -r ${cluster.directory}`)
  } else {
    say('\nStopping everything. With --keep the nodes stay up, to be tried out.')
  }
  if (options.json)
    process.stdout.write(
      `${JSON.stringify({ ...first, again: { wallMs: again.wallMs, jobs: again.jobs } })}\n`,
    )
}

const USAGE = 'usage: npm run demo -- [--json] [--keep] [--example leveldb|text]'

function parseOptions(): { json: boolean; keep: boolean; example: string } {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      keep: { type: 'boolean', default: false },
      example: { type: 'string', default: 'leveldb' },
    },
  })
  if (values.example !== 'leveldb' && values.example !== 'text')
    throw new Failed(`there is no example "${values.example}"\n${USAGE}`, EXIT.usage)
  return values
}

/** Everything is stopped, and the directory removed, before this returns. */
async function main(): Promise<number> {
  const signal = interruptSignal()
  try {
    const options = parseOptions()
    if (options.example === 'leveldb' && !['/usr/bin/c++', '/usr/bin/ar'].every(isExecutable))
      throw new Failed(
        'This machine has no C++ compiler (/usr/bin/c++ and /usr/bin/ar, Debian package g++); run `npm run demo -- --example text`, which needs only /bin/sh.',
        EXIT.unavailable,
      )
    await using cluster = await openCluster('mesh-demo', { signal })
    await demo(cluster, options)
    return EXIT.ok
  } catch (error) {
    if (signal.aborted) {
      process.stderr.write(`${messageOf(signal.reason)}; everything is stopped\n`)
      return 130
    }
    process.stderr.write(`${messageOf(error)}\n`)
    if (error instanceof Failed || error instanceof SubmitFailed) return error.exit
    return error instanceof TypeError && 'code' in error ? EXIT.usage : 1
  }
}

if (import.meta.main) process.exitCode = await main()
