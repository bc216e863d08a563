/**
 * What the walls around a build cost: a build that does nothing by each executor, beside the programs that
 * people take for it; many inputs, where bubblewrap gets slow; and a tree of 10,000 files laid out, beside
 * `cp -al`. All are started in turns, so that a busy machine slows them alike.
 */
import { spawn } from 'node:child_process'
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { systemClock } from '../src/base/clock.ts'
import {
  openExecutor,
  type BuildInput,
  type BuildSpec,
  type Executor,
} from '../src/build/executor.ts'
import { openMaterialised } from '../src/build/materialised.ts'
import { systemOfKernel } from '../src/build/probe/systems.ts'
import { ELF_KINDS, makeTrialProgram, TRIAL_EXIT } from '../src/build/probe/trial-program.ts'
import { findTool } from '../src/build/tool-path.ts'
import { hashingSink, ingest } from '../src/files/ingest.ts'
import { openFileWorkers } from '../src/files/workers/file-workers.ts'
import { removeTree } from '../src/files/workers/remove-job.ts'
import { openFsBlobStore } from '../src/store/fs-blob-store.ts'
import {
  compared,
  figure,
  median,
  timed,
  type Context,
  type Figure,
  type Subject,
} from './subject.ts'

const ROUNDS = 40
const INPUT_COUNTS = [50, 300, 1500]
const INPUT_ROUNDS = 5
const FILES = 10_000
const DIRECTORIES = 100
const NIX_DERIVATIONS = 40

/** Runs a program to its end; throws unless it exits with `code`. */
async function runToEnd(program: string, args: readonly string[], code = 0): Promise<void> {
  const child = spawn(program, args, { stdio: 'ignore' })
  const exit = await new Promise((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  )
  if (exit !== code) throw new Error(`${program} ${args.join(' ')} ended with ${String(exit)}`)
}

class Bench {
  readonly #executor: Executor
  readonly #directory: string
  #count = 0

  constructor(executor: Executor, directory: string) {
    this.#executor = executor
    this.#directory = directory
  }

  /** Milliseconds from the order to the end. */
  async build(more: Partial<BuildSpec>, code = 0): Promise<number> {
    const attempt = `a-${this.#count++}`
    const directory = join(this.#directory, attempt)
    await mkdir(directory, { mode: 0o711 })
    const started = performance.now()
    const { end } = await this.#executor.start({
      attempt,
      isolation: 'namespace',
      directory,
      argv: ['/bin/true'],
      env: { PATH: '/usr/bin:/bin' },
      cwd: '/build/work',
      inputs: [],
      network: false,
      limits: { timeoutMs: 60_000, maxSilentMs: 60_000, maxLogBytes: 1024 * 1024 },
      ...more,
    }).outcome
    const wallMs = performance.now() - started
    if (end.kind !== 'exited' || end.code !== code) throw new Error(JSON.stringify(end))
    await removeTree(directory)
    return wallMs
  }
}

/** Medians of ways to do a thing, taken in turns. */
async function inTurns(
  ways: Readonly<Record<string, () => Promise<number>>>,
  rounds: number,
): Promise<Record<string, number>> {
  const samples = Object.entries(ways).map(([name, way]) => ({ name, way, taken: [] as number[] }))
  for (let round = -1; round < rounds; round++)
    for (const { way, taken } of samples) {
      const ms = await way()
      // The first of each is slower than all that follow.
      if (round >= 0) taken.push(ms)
    }
  return Object.fromEntries(samples.map(({ name, taken }) => [name, median(taken)]))
}

async function trivial(
  bench: Bench,
  executor: Executor,
  directory: string,
): Promise<Record<string, Figure>> {
  const bwrap = await findTool('bwrap')
  const unshare = await findTool('unshare')
  const kind = ELF_KINDS.get(systemOfKernel())
  const layer = join(directory, 'layer')
  await mkdir(layer, { mode: 0o755 })
  if (kind !== undefined)
    await writeFile(join(layer, 'true'), makeTrialProgram(kind), { mode: 0o755 })
  const hasImages = executor.sandbox.imageProblem === undefined && kind !== undefined
  const ways: Record<string, () => Promise<number>> = {
    host: () => bench.build({ isolation: 'host' }),
    spawn: () => timed(() => runToEnd('/bin/true', [])),
  }
  if (executor.sandbox.method !== 'none') ways['namespace'] = () => bench.build({})
  if (hasImages)
    ways['image'] = () =>
      bench.build({ isolation: 'image', image: { layers: [layer] }, argv: ['/true'] }, TRIAL_EXIT)
  if (bwrap !== undefined)
    ways['bwrap'] = () =>
      timed(() =>
        runToEnd(bwrap, [
          '--ro-bind',
          '/',
          '/',
          '--proc',
          '/proc',
          '--dev',
          '/dev',
          '--unshare-all',
          '--die-with-parent',
          '/bin/true',
        ]),
      )
  if (unshare !== undefined)
    ways['unshare'] = () =>
      timed(() => runToEnd(unshare, ['-Urmpfni', '--mount-proc', '/bin/true']))
  const took = await inTurns(ways, ROUNDS)
  const {
    host = 0,
    spawn: spawned = 0,
    namespace,
    image,
    bwrap: byBwrap,
    unshare: byUnshare,
  } = took
  return {
    'a build that does nothing, host (peer: spawn)': compared(host, 'ms', spawned),
    ...(namespace === undefined
      ? {}
      : {
          'namespace (peer: bwrap)': versus(namespace, byBwrap),
          'namespace, more than host': figure(namespace - host, 'ms', 'aim: 15 ms'),
          'namespace (peer: unshare)': versus(namespace, byUnshare),
        }),
    ...(image === undefined ? {} : { image: versus(image, namespace) }),
  }
}

const versus = (ms: number, peer: number | undefined): Figure =>
  peer === undefined ? figure(ms, 'ms', 'not installed') : compared(ms, 'ms', peer)

/** Milliseconds per derivation of nix-build with its sandbox; undefined where there is no Nix. */
async function byNix(directory: string, log: Context['log']): Promise<number | undefined> {
  const nix = await findTool('nix-build')
  const busybox = await findTool('busybox')
  if (nix === undefined || busybox === undefined) {
    log('nix-build or busybox is not installed: no figure of it')
    return undefined
  }
  const file = join(directory, 'many.nix')
  const root = join(directory, 'bb/bin')
  await mkdir(root, { recursive: true })
  await runToEnd('cp', [busybox, join(root, 'busybox')])
  await writeFile(
    file,
    `{ tag }: let bb = builtins.path { path = ${join(directory, 'bb')}; name = "bb"; };
in builtins.genList (n: derivation { name = "t\${toString n}"; system = builtins.currentSystem;
  builder = "\${bb}/bin/busybox"; args = [ "sh" "-c" "echo \${tag} > $out" ]; }) ${NIX_DERIVATIONS}\n`,
  )
  const env = {
    ...process.env,
    NIX_CONFIG: 'substitute = false\nsubstituters =\nsandbox = true\nrequire-sigs = false\n',
  }
  const build = (tag: string): Promise<number> =>
    timed(async () => {
      const child = spawn(nix, ['--no-out-link', '-j1', file, '--argstr', 'tag', tag], {
        stdio: 'ignore',
        env,
      })
      const code = await new Promise((resolve) => child.once('close', resolve))
      if (code !== 0) throw new Error(`nix-build ended with ${String(code)}`)
    })
  await build(`warm-${process.pid}`)
  return (await build(`timed-${process.pid}-${Date.now()}`)) / NIX_DERIVATIONS
}

async function manyInputs(bench: Bench, directory: string): Promise<Record<string, Figure>> {
  const bwrap = await findTool('bwrap')
  const figures: Record<string, Figure> = {}
  for (const count of INPUT_COUNTS) {
    const inputs: BuildInput[] = []
    const args = [
      '--ro-bind',
      '/usr',
      '/usr',
      '--symlink',
      'usr/bin',
      '/bin',
      '--symlink',
      'usr/lib',
      '/lib',
      '--symlink',
      'usr/lib64',
      '/lib64',
      '--unshare-all',
    ]
    for (let at = 0; at < count; at++) {
      const hostPath = join(directory, `input-${count}-${at}`)
      await writeFile(hostPath, 'x')
      inputs.push({ path: `/build/in/i${at}`, source: { kind: 'file', hostPath } })
      args.push('--ro-bind', hostPath, `/build/in/i${at}`)
    }
    const ways: Record<string, () => Promise<number>> = { mesh: () => bench.build({ inputs }) }
    if (bwrap !== undefined)
      ways['bwrap'] = () => timed(() => runToEnd(bwrap, [...args, '/bin/true']))
    const { mesh = 0, bwrap: byBwrap } = await inTurns(ways, INPUT_ROUNDS)
    figures[`${count} inputs, whole build (peer: bwrap)`] = versus(mesh, byBwrap)
  }
  return figures
}

async function materialise(directory: string): Promise<Record<string, Figure>> {
  const source = join(directory, 'source')
  for (let at = 0; at < DIRECTORIES; at++) {
    await mkdir(join(source, `d${at}`), { recursive: true })
    for (let file = 0; file < FILES / DIRECTORIES; file++)
      await writeFile(join(source, `d${at}/f${file}`), `${at} ${file} ${process.pid}`)
  }
  const log = pino({ level: 'silent' })
  await using stack = new AsyncDisposableStack()
  const workers = stack.use(openFileWorkers({ log }))
  const store = stack.use(
    await openFsBlobStore(
      { clock: systemClock(), log, workers },
      { directory: join(directory, 'store') },
    ),
  )
  const entry = await ingest(
    hashingSink(async ({ ref, open }) => void (await store.put(open(), ref))),
    source,
  )
  if (entry.kind !== 'dir') throw new Error('the source is no directory')
  let round = 0
  const { mesh = 0, cp = 0 } = await inTurns(
    {
      async mesh() {
        const trees = await openMaterialised(
          { store, log, workers },
          { directory: join(directory, `trees-${round++}`) },
        )
        const ms = await timed(async () => (await trees.acquire(entry)).release())
        await trees[Symbol.asyncDispose]()
        return ms
      },
      cp: () => timed(() => runToEnd('cp', ['-al', source, join(directory, `copy-${round}`)])),
    },
    3,
  )
  return { '10,000 files laid out (peer: cp -al)': compared(mesh, 'ms', cp) }
}

export const subject: Subject = {
  name: 'executors',
  async run({ log }: Context) {
    const directory = await mkdtemp(join(tmpdir(), 'mesh-bench-'))
    await chmod(directory, 0o755)
    try {
      await mkdir(join(directory, 'data'))
      const executor = await openExecutor(
        { clock: systemClock(), log: { info() {}, warn() {} } },
        { directory: join(directory, 'data') },
      )
      await using stack = new AsyncDisposableStack()
      stack.use(executor)
      for (const reason of executor.sandbox.reasons) log(reason)
      const bench = new Bench(executor, directory)
      const done = await trivial(bench, executor, directory)
      const nix = await byNix(directory, log)
      const ownMs = done['namespace (peer: bwrap)']?.value
      return {
        ...done,
        ...(nix === undefined || ownMs === undefined
          ? {}
          : { 'namespace (peer: nix-build, sandbox)': compared(ownMs, 'ms', nix) }),
        ...(await manyInputs(bench, directory)),
        ...(await materialise(directory)),
      }
    } finally {
      await removeTree(directory)
    }
  },
}
