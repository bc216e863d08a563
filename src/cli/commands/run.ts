/**
 * `mesh run`: one command on the mesh as if it ran here. Its output comes out of its own descriptors,
 * byte for byte, and its exit code is ours.
 *
 * It becomes a derivation with one input tree (all inputs at their relative paths) and one output
 * directory (all outputs at theirs). A shell script copies the first into the working directory, runs
 * the command and moves the outputs away; the command's words are the script's arguments, so that no
 * quoting is ever needed.
 */
import { lstatSync, readdirSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { EXIT, MeshError } from '../../base/errors.ts'
import { randomId } from '../../base/random.ts'
import { layOut } from '../../files/lay-out.ts'
import { JobView, PRIORITY_DEFAULT, type RequestView } from '../../wire/api.ts'
import { DEFAULT_LIMITS, DEFAULT_NEEDS, type Derivation } from '../../wire/derivation.ts'
import { DerivationName, System, VariableName } from '../../wire/names.ts'
import type { Entry } from '../../wire/tree.ts'
import { FOLLOW_PATIENCE_MS, openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { composeTree, segmentsOf } from '../compose-tree.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { ingestPath } from '../graph-file/ingest-plan.ts'
import type { ImageView } from '../../wire/images.ts'
import { imageOf } from '../image/name-image.ts'
import { readLog } from '../read-log.ts'
import { errorJson, errorLines, reportOf } from '../report-error.ts'
import { cancelOnInterrupt, followRequest, submitGraph, thisSystem } from '../submission.ts'
import { paint, printableLine } from '../text/style.ts'
import { parseDuration, parseSize } from '../../base/units.ts'
import { makeDirectories } from '../../files/make-directories.ts'
import { Upload } from '../upload.ts'
import { resultJson } from './submit.ts'

/** Exit codes beside those of the command, as `docker run`, `env` and shells have them. */
const EXIT_MESH_FAILED = 125
const EXIT_INTERRUPTED = 130
const EXIT_NOT_FOUND = 127

/**
 * $1 is the number of outputs, then come their paths, then the command. Inputs are read-only: copies are
 * made writable. The shell gives 126, 127 and 128+N; `exec` keeps its builtins out of the way, and what it
 * says itself about a killed command stays out of the command's stderr.
 */
const SCRIPT = `if [ -n "\${inputs-}" ]; then cp -RP "$inputs/." . && chmod -R u+w . || exit 125; fi
mkdir "$out" || exit 125
count=$1; shift
made=
while [ "$count" -gt 0 ]; do
  quoted=$(printf '%s.' "$1" | sed "s/'/'\\\\\\\\''/g"); made="$made '\${quoted%.}'"
  case $1 in */*) mkdir -p "\${1%/*}" "$out/\${1%/*}" || exit 125 ;; esac
  shift; count=$((count - 1))
done
( (exec "$@" 2>&3 3>&-); exit $? ) 3>&2 2>/dev/null || exit
eval "set -- $made"
for path do
  if [ ! -e "$path" ] && [ ! -L "$path" ]; then printf 'mesh: the command did not make %s\\n' "$path" >&2; exit 125; fi
  mv "$path" "$out/$path" || exit 125
done`

export async function run(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args, { patienceMs: FOLLOW_PATIENCE_MS })
  try {
    return await runOn(client, context, args)
  } catch (error) {
    const report = reportOf(error)
    if (args.flag('json')) await printJson(context.stdout, errorJson(report))
    else await printLines(context.stderr, errorLines(report, context.stderr.style))
    return EXIT_MESH_FAILED
  }
}

async function runOn(client: Client, context: Context, args: Arguments): Promise<number> {
  const outputs = args.all('out').map((path) => relativePath('-o', path))
  const inputs = [
    ...args.all('input').map((path) => relativePath('-i', path)),
    ...namedFiles(context.cwd, args.operands),
  ]
  const upload = new Upload()
  const names = args.all('image')
  const images = await Promise.all(names.map((name) => imageOf(client, name)))
  const described = describe(args, outputs, await packInputs(context, upload, inputs, outputs))
  const derivation = inImages(described, images, args.text('system') === undefined)
  const say = (text: string): void =>
    void context.stderr.write(
      `${paint(context.stderr.style, 'dim', `mesh: ${printableLine(text)}`)}\n`,
    )
  // In a script the command's own words stay alone.
  const notice = (text: string): void => {
    if (context.stderr.isTty) say(text)
  }
  const accepted = await submitGraph(
    { client, context, upload },
    {
      graph: { v: 1, name: derivation.name, derivations: [derivation], wanted: [derivation.name] },
      priority: PRIORITY_DEFAULT,
      keepGoing: false,
      noWait: false,
      takesCopy: true,
    },
    notice,
  )
  using interrupts = cancelOnInterrupt({ client, context }, accepted.id, {
    onNotice: notice,
    exit: EXIT_INTERRUPTED,
  })
  const output = new CommandOutput(client, context)
  let lastReason = ''
  const ended = await followRequest(client, accepted.id, {
    onEvent(event) {
      if (event.type === 'notice') notice(event.text)
      if (event.type !== 'job') return
      output.show(event.job)
      const { why, state } = event.job
      if (
        state === 'waiting' &&
        why !== undefined &&
        why.class !== 'lookup' &&
        why.text !== lastReason
      ) {
        lastReason = why.text
        // A day may pass before it fails: whoever waits for it has to know.
        if (why.class === 'unsatisfiable') say(`waiting: ${why.text}`)
        else notice(`waiting: ${why.text}`)
      }
    },
    onNotice: notice,
    signal: new AbortController().signal,
  })
  if (ended === undefined)
    throw new MeshError('MESH0001', 'the request was not followed to its end')
  const code = await finish({ client, context, output }, ended, outputs)
  const exitCode = interrupts.count > 0 && ended.state === 'cancelled' ? EXIT_INTERRUPTED : code
  // One line of its own, the last one, whatever the command printed.
  if (args.flag('json')) {
    if (output.isMidLine) await context.stdout.write('\n')
    await printJson(context.stdout, { ...resultJson(ended), exitCode })
  }
  return exitCode
}

/** A path below the working directory, in its shortest form. Throws MESH0002 for any other. */
function relativePath(flag: string, path: string): string {
  const segments = segmentsOf(path)
  if (segments === undefined)
    throw new MeshError(
      'MESH0002',
      `${flag} ${path}: expected a path below the working directory, without ".."`,
    )
  return segments.join('/')
}

/** Words of the command that name a file below the working directory; the command itself only when it has a slash. */
function namedFiles(cwd: string, words: readonly string[]): string[] {
  return words.flatMap((word, at) => {
    const path = segmentsOf(word)?.join('/')
    if (path === undefined || path === '' || (at === 0 && !word.includes('/'))) return []
    return lstatSync(join(cwd, path), { throwIfNoEntry: false })?.isFile() ? [path] : []
  })
}

const isBelow = (path: string, above: string): boolean =>
  above === '' || path === above || path.startsWith(`${above}/`)

async function packInputs(
  context: Context,
  upload: Upload,
  paths: readonly string[],
  outputs: readonly string[],
): Promise<Entry | undefined> {
  const wanted = [...new Set(paths)].filter(
    (path, _, all) =>
      // An output of an earlier run is no input, and what lies in another input is in already.
      !outputs.includes(path) && !all.some((other) => other !== path && isBelow(path, other)),
  )
  if (wanted.includes('')) return ingestPath(upload, context.cwd, '.')
  const entries = new Map<string, Entry>()
  for (const path of wanted) entries.set(path, await ingestPath(upload, context.cwd, path))
  return entries.size === 0 ? undefined : composeTree(upload, entries)
}

function describe(
  args: Arguments,
  outputs: readonly string[],
  inputs: Entry | undefined,
): Derivation {
  const env: Record<string, string> = {}
  for (const pair of args.all('env')) {
    const [name = '', ...rest] = pair.split('=')
    if (rest.length === 0 || !VariableName.safeParse(name).success)
      throw new MeshError('MESH0002', `--env ${pair}: expected KEY=VALUE`)
    env[name] = rest.join('=')
  }
  const cpus =
    args.parsed(
      'cpus',
      (text) => (/^[1-9]\d{0,3}$/.test(text) ? Number(text) : undefined),
      'a number from 1 on',
    ) ?? 1
  const program = (args.operand(0).split('/').at(-1) ?? '')
    .replaceAll(/[^A-Za-z0-9_.+-]/g, '_')
    .slice(0, 100)
  const name = `run-${program}`
  return {
    name: DerivationName.safeParse(name).success ? name : 'run',
    builder: '/bin/sh',
    args: ['-c', SCRIPT, 'mesh-run', String(outputs.length), ...outputs, ...args.operands],
    env,
    inputs: inputs === undefined ? {} : { inputs: { kind: 'entry', entry: inputs } },
    outputs: ['out'],
    system:
      args.parsed(
        'system',
        (text) => System.safeParse(text).data,
        'a system such as "x86_64-linux"',
      ) ?? thisSystem(),
    hosts: [],
    variants: [],
    network: false,
    sealed: !args.flag('unsealed'),
    tools: [],
    needs: {
      ...DEFAULT_NEEDS,
      cpus: { min: cpus, max: cpus },
      memoryBytes:
        args.parsed('memory', parseSize, 'a size such as "8 GiB"') ?? DEFAULT_NEEDS.memoryBytes,
    },
    run: {
      ...DEFAULT_LIMITS,
      timeoutMs:
        args.parsed('timeout', parseDuration, 'a duration such as "30m"') ??
        DEFAULT_LIMITS.timeoutMs,
      ...(args.flag('keep-failed') ? { keepFailed: true } : {}),
    },
  }
}

/** Without a system of its own it is built for that of the image. Throws MESH0002 where they differ. */
function inImages(
  derivation: Derivation,
  images: readonly ImageView[],
  takesSystem: boolean,
): Derivation {
  const [first] = images.filter(({ system }) => system !== 'any')
  if (images.length === 0) return derivation
  if (!derivation.sealed)
    throw new MeshError(
      'MESH0002',
      'mesh run: a command in an image is sealed: leave out --unsealed',
    )
  const system = takesSystem ? (first?.system ?? derivation.system) : derivation.system
  const other = images.find((image) => image.system !== 'any' && image.system !== system)
  if (other !== undefined)
    throw new MeshError(
      'MESH0002',
      `mesh run: the image ${other.name} is for ${other.system}, and the command is for ${system}`,
    )
  const image = images.map(({ digest, size }) => ({
    kind: 'entry' as const,
    entry: { kind: 'dir' as const, digest, size },
  }))
  return { ...derivation, system, image }
}

/** Shows the log of the command while it runs. A further attempt shows only what goes beyond the earlier ones. */
class CommandOutput {
  readonly #client: Client
  readonly #context: Context
  readonly #shownBytes = { stdout: 0, stderr: 0 }
  /** Whether stdout stands behind an unfinished line. */
  isMidLine = false
  #attempt: number | undefined
  #stop = new AbortController()
  #reading: Promise<void> = Promise.resolve()

  constructor(client: Client, context: Context) {
    this.#client = client
    this.#context = context
  }

  /** Begins with an attempt as soon as it builds. */
  show(job: JobView): void {
    const attempt = job.attempts.findLast(({ state }) => state === 'building')
    if (attempt === undefined || attempt.n === this.#attempt) return
    this.#attempt = attempt.n
    this.#stop.abort()
    this.#stop = new AbortController()
    const { signal } = this.#stop
    const before = this.#reading
    // What cannot be read live is read again at the end.
    this.#reading = before
      .then(() => this.#read(job.id, attempt.n, true, signal))
      .catch(() => undefined)
  }

  /** The rest, once the job has ended: from its stored log, which is whole. */
  async complete(job: string): Promise<void> {
    await this.#reading
    await this.#read(job, undefined, false, new AbortController().signal)
  }

  async #read(
    job: string,
    attempt: number | undefined,
    follow: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const seen = { stdout: 0, stderr: 0 }
    for await (const { stream, bytes } of readLog(this.#client, this.#context, {
      job,
      ...(attempt === undefined ? {} : { attempt }),
      follow,
      signal,
    })) {
      if (stream === 'mesh') continue
      const fresh = bytes.subarray(Math.max(0, this.#shownBytes[stream] - seen[stream]))
      seen[stream] += bytes.byteLength
      if (fresh.byteLength === 0) continue
      this.#shownBytes[stream] += fresh.byteLength
      await this.#context[stream].write(fresh)
      if (stream === 'stdout') this.isMidLine = fresh.at(-1) !== 10
    }
  }
}

/** The exit code of the command, or that of our own failure. */
async function finish(
  {
    client,
    context,
    output,
  }: { readonly client: Client; readonly context: Context; readonly output: CommandOutput },
  request: RequestView,
  outputs: readonly string[],
): Promise<number> {
  const [job] = await client.json(z.array(JobView), `/api/jobs?request=${request.id}`)
  if (request.state === 'done') {
    if (job !== undefined) await output.complete(job.id)
    const [entry] = Object.values(request.outputs).flatMap((made) => Object.values(made))
    if (entry !== undefined && outputs.length > 0) await bringBack(client, context, entry)
    return EXIT.ok
  }
  const [failure] = request.failures
  const attempt = job?.attempts.at(-1)
  if (failure?.code === 'MESH0401' && job !== undefined && attempt !== undefined) {
    await output.complete(job.id)
    if (failure.kept !== undefined)
      await context.stderr.write(`mesh: what it left is kept: mesh get ${failure.kept} -o DIR\n`)
    return attempt.exitCode ?? EXIT.buildFailed
  }
  if (job !== undefined && attempt !== undefined) await output.complete(job.id)
  await printLines(
    context.stderr,
    errorLines(
      failure === undefined
        ? {
            code: 'MESH0304',
            message: `${request.id} is ${request.state}`,
            hints: [],
            exit: EXIT.cancelled,
          }
        : {
            code: failure.code,
            message: failure.message,
            hints: [`mesh explain ${failure.code}`],
            exit: EXIT_MESH_FAILED,
          },
      context.stderr.style,
    ),
  )
  if (failure?.code === 'MESH0406') return EXIT_NOT_FOUND
  return EXIT_MESH_FAILED
}

/** Lays the outputs out in a directory beside, then moves each file to its place. */
async function bringBack(client: Client, context: Context, entry: Entry): Promise<void> {
  const beside = join(context.cwd, `.${randomId(context.random, 'mesh')}`)
  try {
    await layOut(client.blob, entry, beside)
    await merge(beside, context.cwd)
  } finally {
    await rm(beside, { recursive: true, force: true })
  }
}

/** As the command would have written them: files are replaced, directories filled. */
async function merge(from: string, to: string): Promise<void> {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const target = join(to, entry.name)
    const there = lstatSync(target, { throwIfNoEntry: false })
    if (entry.isDirectory() && there?.isDirectory()) {
      await merge(join(from, entry.name), target)
      continue
    }
    if (there?.isDirectory() || (entry.isDirectory() && there !== undefined))
      throw new MeshError(
        'MESH0209',
        `${target} is ${there.isDirectory() ? 'a directory' : 'no directory'}, the output is not; it is left alone`,
      )
    await makeDirectories(dirname(target))
    await rename(join(from, entry.name), target)
  }
}
