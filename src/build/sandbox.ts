/**
 * Finds the strongest sandbox that this machine can give, and proves it with a trial build.
 *
 * Nothing is concluded from versions or settings: kernels, containers and security modules forbid
 * namespaces in too many ways. What ran the trial works; what did not is told with its exact error.
 */
import { execFile } from 'node:child_process'
import {
  access,
  chmod,
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  writeFile,
} from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../base/clock.ts'
import { hasCode, messageOf } from '../base/errors.ts'
import { sha256 } from '../wire/digest.ts'
import { removeTree } from '../files/workers/remove-job.ts'
import type { BuildOutcome, BuildSpec, SandboxChoice, SandboxForbid } from './executor-protocol.ts'
import { systemOfKernel } from './probe/systems.ts'
import { ELF_KINDS, makeTrialProgram, TRIAL_EXIT } from './probe/trial-program.ts'
import { PipePool } from './pipe-pool.ts'
import { RunningBuild } from './running-build.ts'
import { readHostLayout, type HostLayout } from './sandbox-layout.ts'
import { findTool, SEARCH_PATH } from './tool-path.ts'

const COMPILE_MS = 60_000
const TRIAL_MS = 20_000
const COMPILERS = ['cc', 'gcc', 'clang'] as const
const SOURCE = join(import.meta.dirname, 'sandbox', 'mesh-sandbox.c')
/** The helper, and what is included in it. */
const SOURCES = [SOURCE, join(import.meta.dirname, 'sandbox', 'mesh-filter.c')]
const UNFILTERED_EXIT = 6
/**
 * Exits 0 only where the identity is right, and neither the tools nor the root can be written; with
 * UNFILTERED_EXIT where all that is so and no system call is refused.
 */
const TRIAL = `[ "$(id -u)" = 1000 ] || exit 2
if (: > /usr/.mesh) 2>/dev/null || (: > /.mesh) 2>/dev/null; then exit 3; fi
[ ! -e /root/. ] && [ ! -e /home ] || exit 4
echo yes > /build/out/out || exit 5
if chmod 4755 /build/out/out 2>/dev/null; then exit ${UNFILTERED_EXIT}; fi`

/** Where the sandbox keeps its own files below the data directory. */
export const sandboxDirectory = (dataDirectory: string): string => join(dataDirectory, 'sandbox')

/** Removes what a killed executor left of its temporary files. Only one executor works in a data directory. */
export async function removeStale(dataDirectory: string): Promise<void> {
  const directory = sandboxDirectory(dataDirectory)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  for (const name of await readdir(directory))
    if (/^(?:pipes|trial|compile|etc)-/.test(name)) await removeTree(join(directory, name))
}

export async function probeSandbox(
  deps: { readonly clock: Clock },
  options: { readonly directory: string; readonly forbid?: SandboxForbid },
): Promise<SandboxChoice> {
  const directory = sandboxDirectory(options.directory)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const layout = await readHostLayout(directory)
  await using pipes = await PipePool.open(directory, layout)
  const reasons: string[] = []
  for (const method of ['helper', 'bwrap', 'unshare'] as const) {
    if (options.forbid?.includes(method)) {
      reasons.push(`${method}: not allowed here`)
      continue
    }
    try {
      const program = method === 'helper' ? await compileHelper(directory) : await findTool(method)
      if (program === undefined) {
        reasons.push(`${method}: ${method} is not installed`)
        continue
      }
      const choice = { method, program, reasons }
      const trial = { ...deps, pipes, sandbox: choice, layout }
      const isFiltered = await tryOut(trial, directory)
      return { ...choice, isFiltered, imageProblem: await problemOfImages(trial, directory) }
    } catch (error) {
      reasons.push(
        `${method}: ${messageOf(error)
          .trim()
          .replaceAll(/\s*\n\s*/g, '; ')}`,
      )
    }
  }
  return { method: 'none', program: '', reasons, imageProblem: 'there is no sandbox' }
}

/** Enters an image that has one program; undefined where it ran. */
async function problemOfImages(deps: TrialDeps, directory: string): Promise<string | undefined> {
  if (deps.sandbox.method !== 'helper') return `the sandbox ${deps.sandbox.method} has no images`
  const kind = ELF_KINDS.get(systemOfKernel())
  if (kind === undefined) return `no trial program for ${systemOfKernel()}`
  const attempt = await mkdtemp(join(directory, 'trial-'))
  const layer = await mkdtemp(join(directory, 'trial-'))
  try {
    await chmod(layer, 0o755)
    await writeFile(join(layer, 'trial'), makeTrialProgram(kind), { mode: 0o755 })
    const { end } = await runTrial(deps, attempt, {
      isolation: 'image',
      image: { layers: [layer] },
      argv: ['/trial'],
    })
    if (end.kind === 'exited' && end.code === TRIAL_EXIT) return undefined
    return 'message' in end ? end.message : `the trial ended as ${JSON.stringify(end)}`
  } finally {
    await removeTree(attempt)
    await removeTree(layer)
  }
}

/** The program in `<directory>/<sha256 of its source>`, compiled when it is not there yet. */
async function compileHelper(directory: string): Promise<string> {
  const sources = await Promise.all(SOURCES.map((path) => readFile(path)))
  const home = join(directory, sha256(Buffer.concat(sources)))
  const program = join(home, 'mesh-sandbox')
  try {
    await access(program)
    return program
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
  const compiler = (await Promise.all(COMPILERS.map((name) => findTool(name)))).find(
    (path) => path !== undefined,
  )
  if (compiler === undefined)
    throw new Error(`no C compiler (${COMPILERS.join(', ')}) in ${SEARCH_PATH}`)
  // Two at once compile in two directories; the last rename wins, with the same program.
  const temporary = await mkdtemp(join(directory, 'compile-'))
  try {
    for (const path of SOURCES) await copyFile(path, join(temporary, basename(path)))
    await promisify(execFile)(compiler, ['-O2', '-o', 'mesh-sandbox', 'mesh-sandbox.c'], {
      cwd: temporary,
      env: { PATH: SEARCH_PATH, LC_ALL: 'C' },
      timeout: COMPILE_MS,
    })
    await mkdir(home, { recursive: true })
    await rename(join(temporary, 'mesh-sandbox'), program)
  } finally {
    await removeTree(temporary)
  }
  return program
}

interface TrialDeps {
  readonly clock: Clock
  readonly pipes: PipePool
  readonly sandbox: SandboxChoice
  readonly layout: HostLayout
}

function runTrial(
  deps: TrialDeps,
  directory: string,
  what: Pick<BuildSpec, 'isolation' | 'argv' | 'image'>,
): Promise<BuildOutcome> {
  const spec: BuildSpec = {
    ...what,
    attempt: 'trial',
    directory,
    env: { PATH: '/usr/bin:/bin' },
    cwd: '/build/work',
    inputs: [{ path: '/build/in/trial', source: { kind: 'file', hostPath: SOURCE } }],
    network: false,
    limits: { timeoutMs: TRIAL_MS, maxSilentMs: TRIAL_MS, maxLogBytes: 64 * 1024 },
  }
  return new RunningBuild(deps, spec, () => {}).outcome
}

/** Whether system calls are refused. Throws where the walls do not hold. */
async function tryOut(deps: TrialDeps, directory: string): Promise<boolean> {
  const attempt = await mkdtemp(join(directory, 'trial-'))
  try {
    const { end } = await runTrial(deps, attempt, {
      isolation: 'namespace',
      argv: ['/bin/sh', '-c', TRIAL],
    })
    if (end.kind !== 'exited')
      throw new Error('message' in end ? end.message : `the trial ended as ${JSON.stringify(end)}`)
    if (end.code !== 0 && end.code !== UNFILTERED_EXIT)
      throw new Error(`the trial's walls do not hold: exit ${end.code}`)
    return end.code === 0
  } finally {
    await removeTree(attempt)
  }
}
