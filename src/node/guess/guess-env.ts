/**
 * `mesh-node guess-env`: tells what this machine, or another root directory, is and what a node on it would
 * offer. Nothing is changed, and no daemon is needed; it works inside of a chroot or container as well.
 */
import { mkdtemp, realpath, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { EXIT, hasCode, MeshError, messageOf } from '../../base/errors.ts'
import { openExecutor, type Executor } from '../../build/executor.ts'
import { openHostEnvironment } from '../../build/host-environment.ts'
import { imageEnvironments } from '../../build/image-root.ts'
import { askFacts, NO_CUSTOM_FACTS } from '../../build/probe/custom-facts.ts'
import { probeMachine } from '../../build/probe/machine-facts.ts'
import { offeredOf } from '../../build/probe/offered.ts'
import { probeRoot, type RootFacts } from '../../build/probe/root-facts.ts'
import { removeTree } from '../../files/workers/remove-job.ts'
import type { Config } from '../config/config.ts'
import { resolveConfig } from '../config/resolve-config.ts'
import { machineOptions } from '../machine.ts'
import type { NodeSystem } from '../node-system.ts'
import { readGuessLine } from './guess-flags.ts'
import type { Guess } from './guess.ts'
import { guessHelp } from './guess-help.ts'
import { machineText, rootText } from './guess-view.ts'
import { machineToml, rootToml } from './guess-toml.ts'

export type GuessSystem = Pick<NodeSystem, 'env' | 'io' | 'clock' | 'out' | 'err'>

/** `argv` begins with the command. Resolves to the exit code. Throws MESH0002 and the errors of the configuration. */
export async function guessEnv(argv: readonly string[], system: GuessSystem): Promise<number> {
  const { line, root, form } = readGuessLine(argv)
  if (line.flags.has('help')) {
    system.out(guessHelp())
    return EXIT.ok
  }
  const { config, problems } = resolveConfig(line, system.env, system.io)
  if (config === undefined) throw problems[0] ?? new Error('the configuration was not resolved')
  const temporary = await mkdtemp(join(tmpdir(), 'mesh-guess-'))
  try {
    const told =
      root === undefined
        ? machineTold(await guess(config, temporary, system))
        : rootTold(await probeRoot(await rootAt(resolve(system.io.cwd, root)), temporary))
    system.out(told[form]())
    return EXIT.ok
  } finally {
    await removeTree(temporary)
  }
}

type Told = Readonly<Record<'text' | 'json' | 'toml', () => string>>

const machineTold = (found: Guess): Told => ({
  text: () => machineText(found),
  toml: () => machineToml(found),
  json: () =>
    `${JSON.stringify({ ...found.facts, custom: found.custom, offered: found.offered })}\n`,
})

const rootTold = (facts: RootFacts): Told => ({
  text: () => rootText(facts),
  toml: () => rootToml(facts),
  json: () => `${JSON.stringify(facts)}\n`,
})

async function rootAt(path: string): Promise<string> {
  const wrong = (what: string): MeshError =>
    new MeshError('MESH0002', `--root ${JSON.stringify(path)}: ${what}`, {
      hints: ['the root directory of a system, as debootstrap makes one'],
    })
  try {
    const real = await realpath(path)
    if ((await stat(real)).isDirectory()) return real
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw wrong('there is no such directory')
    throw error
  }
  throw wrong('not a directory')
}

/** The sandbox is tried in a directory of its own: a daemon may be at work in that of the configuration. */
async function guess(config: Config, directory: string, system: GuessSystem): Promise<Guess> {
  let executor: Executor | undefined
  let problem = ''
  try {
    executor = await openExecutor({ clock: system.clock, log: SILENT }, { directory })
  } catch (error) {
    problem = `no process that builds could be started: ${messageOf(error)}`
  }
  try {
    const sandbox = executor?.sandbox ?? {
      method: 'none' as const,
      reasons: [problem],
      imageProblem: problem,
    }
    const { declared, factPaths } = machineOptions(config)
    const [facts, userland, custom] = await Promise.all([
      probeMachine({ data: config.data, directory, sandbox }),
      openHostEnvironment({ directory, sandbox }),
      executor === undefined
        ? NO_CUSTOM_FACTS
        : askFacts(executor, {
            paths: factPaths,
            directory: join(directory, 'facts'),
            signal: new AbortController().signal,
          }),
    ])
    const images = sandbox.imageProblem === undefined ? imageEnvironments(facts.systems) : []
    const offered = offeredOf({
      facts,
      declared,
      custom,
      environments: [...userland.environments, ...images],
      isSecure: executor?.controls.isSecure ?? false,
    })
    return { facts, declared: { features: declared.features, factPaths }, custom, offered }
  } finally {
    await executor?.[Symbol.asyncDispose]()
  }
}

/** What its parts have to say is in the facts. */
const SILENT = { info: () => undefined, warn: () => undefined }
