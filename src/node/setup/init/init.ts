/**
 * `mesh-node init`: measures, asks, shows the configuration with its reasons, and writes it. All that is
 * written is that one file, whole, at the very end.
 */
import { constants } from 'node:os'
import { EXIT, MeshError } from '../../../base/errors.ts'
import { resolveConfig } from '../../config/resolve-config.ts'
import { unitFor } from '../install-service.ts'
import { measure } from '../progress.ts'
import type { SetupLine } from '../setup-flags.ts'
import type { SetupSystem } from '../setup-system.ts'
import { findConfigPlace, takenError, writeConfig, type ConfigPlace } from './config-place.ts'
import { converse } from './conversation.ts'
import { choicesOf, placeOf, proposalsOf, resolveText, saidBy, type Draft } from './draft.ts'
import { equivalentCommand } from './equivalent-command.ts'
import { nextSteps } from './next-steps.ts'
import { settingsToml } from './settings-toml.ts'
import { writtenJson, writtenText } from './written-view.ts'

const TITLE =
  'Written by "mesh-node init". Every line is optional; "mesh-node config check" shows the rest.'

/** As if the signal of ^C had come. */
const INTERRUPTED = 128 + constants.signals.SIGINT

interface Stage {
  readonly setup: SetupLine
  readonly system: SetupSystem
  readonly place: ConfigPlace
}

/** Rejects with the signal's reason. */
export async function init(
  setup: SetupLine,
  system: SetupSystem,
  signal: AbortSignal,
): Promise<number> {
  const { line, switches } = setup
  const said = saidBy(line, system.env, system.io)
  const place = await findConfigPlace(line, system.env, system.io)
  const stage = { setup, system, place }
  // Nobody waits for an error: these come before the measurements.
  if (switches.has('yes') && place.isTaken && !switches.has('force')) throw takenError(place.path)
  if (!switches.has('yes') && !isAtTerminal(system)) throw noTerminal()
  const findings = await measure(system, {
    directory: dataOf(said, system),
    machineRoot: String(said.get('worker.machine-root')?.value ?? '/'),
    signal,
  })
  const draft: Draft = { findings, jobs: setup.jobs ?? 'mixed', place: undefined, said }
  if (!switches.has('yes')) return ask(draft, stage, signal)
  return write(draft, stage, { isReplacing: place.isTaken, isWithUnit: switches.has('boot') })
}

/** It is opened for a moment only: while a terminal is open, ^C is a key and no signal. */
function isAtTerminal({ openTerminal }: SetupSystem): boolean {
  using terminal = openTerminal?.()
  return terminal !== undefined
}

const noTerminal = (): MeshError =>
  new MeshError('MESH0002', 'init asks questions, and there is no terminal to ask at', {
    hints: [
      'take all proposals: mesh-node init --yes',
      'with answers of yours: --parent or --listen, --role, --for, --policy, --cpus, --quota, --data, --boot',
      'see the proposals first: mesh-node calibrate',
    ],
  })

/** The data directory as it was said, else that of a node without a configuration. */
function dataOf(said: Draft['said'], { env, io }: SetupSystem): string {
  const told = said.get('node.data')?.value
  if (typeof told === 'string') return told
  const others = Object.entries(env).filter(([name]) => !name.startsWith('MESH_'))
  const { config } = resolveConfig({ words: [], flags: new Map() }, Object.fromEntries(others), {
    ...io,
    readFile: () => undefined,
  })
  if (config === undefined) throw new Error('the defaults are no configuration')
  return config.data
}

async function ask(first: Draft, stage: Stage, signal: AbortSignal): Promise<number> {
  const { setup, system, place } = stage
  const decision = await talk(first, stage, signal)
  signal.throwIfAborted()
  switch (decision.kind) {
    case 'ended':
      system.err('\nended: nothing was written\n')
      return INTERRUPTED
    case 'declined':
      system.err('nothing was written\n')
      return EXIT.cancelled
    case 'write':
      return write(decision.draft, stage, {
        isReplacing: place.isTaken,
        isWithUnit: decision.isWithUnit || setup.switches.has('boot'),
      })
  }
}

async function talk(first: Draft, { setup, system, place }: Stage, signal: AbortSignal) {
  using terminal = system.openTerminal?.()
  if (terminal === undefined) throw noTerminal()
  signal.addEventListener('abort', () => terminal.interrupt(), { once: true })
  return await converse({ terminal, io: system.io }, first, {
    place,
    isKindSet: setup.jobs !== undefined,
    tomlOf: (draft) => tomlOf(draft, place, system),
  })
}

/** Throws what a daemon would say of it. */
function tomlOf(draft: Draft, { path }: ConfigPlace, { io }: SetupSystem): string {
  const toml = settingsToml(choicesOf(draft), TITLE)
  const [problem] = resolveText(toml, path, io).problems
  if (problem !== undefined) throw problem
  return toml
}

async function write(
  draft: Draft,
  { setup, system, place }: Stage,
  { isReplacing, isWithUnit }: { readonly isReplacing: boolean; readonly isWithUnit: boolean },
): Promise<number> {
  const { path } = place
  const toml = tomlOf(draft, place, system)
  await writeConfig(path, toml, { isReplacing })
  const config = place.isUsual ? undefined : path
  const { settings } = resolveText(toml, path, system.io)
  const flagOf = new Map(settings.map(({ section, key, flag }) => [`${section}.${key}`, flag]))
  const data = draft.said.get('node.data')?.value
  const written = {
    path,
    toml,
    command: equivalentCommand(draft, { flagOf, config }),
    proposals: proposalsOf(draft),
    next: nextSteps(placeOf(draft), {
      config,
      data: typeof data === 'string' ? data : undefined,
      isWithUnit,
    }),
    unit: isWithUnit ? unitFor(system, { config }) : undefined,
  }
  system.out(
    setup.switches.has('json')
      ? writtenJson(written)
      : writtenText(written, { isTomlShown: setup.switches.has('yes') }),
  )
  return EXIT.ok
}
