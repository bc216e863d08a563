/** The talk with a person: the questions, the file as it will be, and whether it is to be written. */
import type { ConfigIo } from '../../config/config-io.ts'
import { machineLines } from '../calibrate-view.ts'
import { lookAtDisk } from '../measure/machine-here.ts'
import type { Terminal } from '../terminal.ts'
import type { ConfigPlace } from './config-place.ts'
import type { Draft } from './draft.ts'
import { interview } from './interview.ts'
import { indented } from './settings-toml.ts'

export type Decision =
  | { readonly kind: 'write'; readonly draft: Draft; readonly isWithUnit: boolean }
  /** The person said no. */
  | { readonly kind: 'declined' }
  /** By ^C, ^D or a signal. */
  | { readonly kind: 'ended' }

const CONFIRMATIONS = ['yes', 'no', 'boot'] as const
type Confirmation = (typeof CONFIRMATIONS)[number]

export async function converse(
  { terminal, io }: { readonly terminal: Terminal; readonly io: ConfigIo },
  first: Draft,
  options: {
    readonly place: ConfigPlace
    readonly isKindSet: boolean
    /** Throws what a daemon would say of the file. */
    readonly tomlOf: (draft: Draft) => string
  },
): Promise<Decision> {
  terminal.show(`${['This machine', ...machineLines(first.findings)].join('\n')}\n`)
  terminal.show('\nReturn takes what is in brackets; ^C ends, with nothing written.\n')
  const draft = await interview(
    { terminal, io, lookAtDisk: (directory) => lookAtDisk(directory, io) },
    first,
    {
      places: { cwd: io.cwd, home: io.home, data: first.findings.machine.disk.directory },
      isKindSet: options.isKindSet,
    },
  )
  if (draft === undefined) return { kind: 'ended' }
  terminal.show(`\n${options.place.path} will be:\n\n${indented(options.tomlOf(draft))}\n\n`)
  const answer = await confirm(terminal, options.place)
  if (answer === undefined) return { kind: 'ended' }
  if (answer === 'no') return { kind: 'declined' }
  return { kind: 'write', draft, isWithUnit: answer === 'boot' }
}

async function confirm(
  terminal: Terminal,
  { path, isTaken }: ConfigPlace,
): Promise<Confirmation | undefined> {
  const proposed = isTaken ? 'no' : 'yes'
  const question = isTaken ? `There is a ${path} already. Replace it?` : 'Write it?'
  terminal.show(`${question}\n  yes, no, or boot: yes, and print the unit that starts it at boot\n`)
  for (;;) {
    const answer = await terminal.ask(`  [${proposed}] `)
    if (answer === undefined) return undefined
    const word = answer === '' ? proposed : answer.toLowerCase()
    const found = CONFIRMATIONS.find((name) => name === word || name[0] === word)
    if (found !== undefined) return found
    terminal.show(`  ! ${JSON.stringify(answer)} is none of ${CONFIRMATIONS.join(', ')}\n`)
  }
}
