/**
 * `mesh jobserver`: a build of one's own, outside of the mesh, under the same job control as those in it.
 *
 * With a daemon on this machine it is a build among others: the node counts the processors it has as taken
 * and says, as that changes, how many it should use. Without one the number stays.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { hasCode, MeshError, messageOf } from '../../base/errors.ts'
import { writeJobsFile, JOBS_NAME } from '../../jobs/jobs-file.ts'
import { FIFO_NAME, Jobserver } from '../../jobs/jobserver.ts'
import { makeStyleOf, withoutJobserver, type MakeStyle } from '../../jobs/make-style.ts'
import { TokenPool } from '../../jobs/token-pool.ts'
import { LOCAL_CPUS_MAX } from '../../wire/local-build.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { findSocket } from '../find-socket.ts'
import { runCommand } from '../jobserver/command-process.ts'
import { followShare } from '../jobserver/local-share.ts'
import { paint } from '../text/style.ts'

/** For make 4.2 and 4.3: far from those that scripts use. */
const DESCRIPTORS = [198, 199] as const
const PROBE_MS = 5000

export async function jobserver(context: Context, args: Arguments): Promise<number> {
  const most = args.parsed('jobs', parseCount, 'a number of jobs') ?? availableParallelism()
  const least = args.parsed('min', parseCount, 'a number of jobs') ?? 1
  if (least > most)
    throw new MeshError('MESH0002', `--min ${least}: more than the ${most} jobs of -j`)
  const notice = (text: string): void => {
    if (context.stderr.isTty)
      void context.stderr.write(`${paint(context.stderr.style, 'dim', `mesh: ${text}`)}\n`)
  }
  const over = new AbortController()
  const directory = await mkdtemp(join(tmpdir(), 'mesh-jobs-'))
  let server: Jobserver | undefined
  let jobs = most
  const tell = (share: number): void => {
    const next = Math.min(most, Math.max(least, share))
    if (next === jobs) return
    jobs = next
    notice(`${jobs} ${jobs === 1 ? 'job' : 'jobs'} from now on`)
    server?.setJobs(jobs)
    writeJobsFile(directory, jobs)
  }
  const pool = new TokenPool(context.clock, (error) => notice(messageOf(error)))
  try {
    const share = await shareOf(context, args, {
      cpus: most,
      onShare: tell,
      notice,
      signal: over.signal,
    })
    if (share !== undefined) tell(share)
    writeJobsFile(directory, jobs)
    server = await Jobserver.open(
      { clock: context.clock, random: context.random, pool, makeFifo },
      { id: 'local', directory, jobs },
    )
    const style = await probeMake(context)
    const seen = { directory, descriptors: DESCRIPTORS }
    const { code, problem } = await runCommand({
      words: args.operands,
      env: environment(context, server.variables(style, seen), { jobs, directory }),
      cwd: context.cwd,
      open:
        style === 'descriptors' ? { path: join(directory, FIFO_NAME), at: DESCRIPTORS } : undefined,
      hasTerminal: context.stderr.isTty || context.stdout.isTty,
    })
    if (problem !== undefined) await printLines(context.stderr, [`mesh: ${problem}`])
    if (args.flag('json')) await printJson(context.stdout, { v: 1, exitCode: code, jobs })
    return code
  } finally {
    over.abort()
    await server?.[Symbol.asyncDispose]()
    await pool[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  }
}

/** What the daemon gives; undefined where there is none, unless one was asked for by name. */
async function shareOf(
  context: Context,
  args: Arguments,
  follow: {
    readonly cpus: number
    readonly onShare: (cpus: number) => void
    readonly notice: (text: string) => void
    readonly signal: AbortSignal
  },
): Promise<number | undefined> {
  if (args.flag('no-daemon')) return undefined
  const locate = (): Promise<string> => findSocket(context, args)
  try {
    return await followShare(
      context,
      { cpus: follow.cpus, pid: process.pid },
      {
        locate,
        onShare: follow.onShare,
        onLost: (why) => follow.notice(`the daemon is gone (${why}): the number of jobs stays`),
        signal: follow.signal,
      },
    )
  } catch (error) {
    const isNamed = args.text('socket') !== undefined || args.text('data') !== undefined
    if (!isNamed && error instanceof MeshError && error.code === 'MESH0101') return undefined
    throw error
  }
}

/** Variables of a jobserver above us are of another pool, and go. */
function environment(
  { env }: Context,
  variables: Readonly<Record<string, string>>,
  { jobs, directory }: { readonly jobs: number; readonly directory: string },
): Record<string, string | undefined> {
  const { MFLAGS: _flags, MAKELEVEL: _level, CARGO_MAKEFLAGS: _cargo, ...rest } = env
  const own = withoutJobserver(env['MAKEFLAGS'] ?? '')
  const ours = variables['MAKEFLAGS']
  // Ours first: behind a `--` in theirs are no options.
  const flags = [ours, own].filter((text) => text !== undefined && text !== '').join(' ')
  return {
    ...rest,
    ...variables,
    MAKEFLAGS: flags === '' ? undefined : flags,
    MESH_JOBS: String(jobs),
    MESH_JOBS_FILE: join(directory, JOBS_NAME),
    NIX_BUILD_CORES: String(jobs),
  }
}

/** How the make in PATH is told of a jobserver. */
async function probeMake({ env }: Context): Promise<MakeStyle> {
  try {
    const options = { env: { PATH: env['PATH'], LC_ALL: 'C' }, timeout: PROBE_MS }
    const { stdout } = await promisify(execFile)('make', ['--version'], options)
    return makeStyleOf(stdout)
  } catch (error) {
    return makeStyleOf(hasCode(error, 'ENOENT') ? undefined : '')
  }
}

async function makeFifo(path: string): Promise<void> {
  await promisify(execFile)('mkfifo', ['-m', '600', '--', path])
}

function parseCount(text: string): number | undefined {
  const count = /^\d{1,4}$/.test(text) ? Number(text) : 0
  return count >= 1 && count <= LOCAL_CPUS_MAX ? count : undefined
}
