/** What `mesh-node calibrate` found and proposes, as text of 80 columns. */
import { formatSize } from '../../base/units.ts'
import { JOB_KINDS, type JobKindName } from './job-kinds.ts'
import type { Machine, Measured } from './machine.ts'
import { isForJobs, type Proposal } from './proposals/proposal.ts'
import { times } from './proposals/propose-worker.ts'
import type { Findings } from './measure/take-measurements.ts'
import { wrap } from './wrap.ts'

const LABEL_COLUMNS = 12

export function calibrationText(
  findings: Findings,
  proposals: readonly Proposal[],
  jobs: JobKindName,
): string {
  return `${[
    'This machine',
    ...machineLines(findings),
    '',
    'Proposed for its configuration',
    ...proposals.filter((proposal) => !isForJobs(proposal)).flatMap(proposalLines),
    ...needsLines(proposals, jobs),
    '',
    'Write it with: mesh-node init',
  ].join('\n')}\n`
}

export function machineLines({ machine, measured }: Findings): string[] {
  return [
    ...line('processors', processorText(machine, measured)),
    ...line('memory', `${formatSize(machine.memoryBytes)}${bracket(machine.memoryLimit)}`),
    ...line('disk', diskText(machine, measured)),
    ...line('builds', startText(machine, measured)),
    ...line('systems', machine.systems.join(', ')),
    ...(machine.ownerSigns.length === 0 ? [] : line('its owner', machine.ownerSigns.join('; '))),
  ]
}

const line = (label: string, text: string): string[] => {
  const indent = ' '.repeat(LABEL_COLUMNS + 2)
  const [first = '', ...rest] = wrap(text, indent)
  return [`  ${label.padEnd(LABEL_COLUMNS)}${first.slice(indent.length)}`, ...rest]
}

const bracket = (text: string | undefined): string => (text === undefined ? '' : ` (${text})`)

function processorText(
  { cpus, cpuLimit }: Machine,
  { speed, scaling, busyCpus }: Measured,
): string {
  const curve = scaling
    .slice(1)
    .map(({ threads, times: work }) => `${threads} together do the work of ${times(work)}`)
  const busy = busyCpus >= 0.1 ? `others used ${times(busyCpus)} just now` : undefined
  return [
    `${cpus}${bracket(cpuLimit)}`,
    `one has ${speed.toFixed(2)} of the reference speed`,
    ...curve,
    ...(busy === undefined ? [] : [busy]),
  ].join('; ')
}

function diskText({ disk }: Machine, { disk: speed }: Measured): string {
  const rate = (bytes: number): string => `${formatSize(bytes)}/s`
  const cached = speed.isReadCached ? ' (out of the cache)' : ''
  return [
    `${formatSize(disk.freeBytes)} of ${formatSize(disk.totalBytes)} free at ${disk.directory}`,
    `write ${rate(speed.writeBytesPerS)}, read ${rate(speed.readBytesPerS)}${cached}`,
    `${Math.round(speed.filesPerS)} small files/s, a synced write takes ${speed.syncMs.toFixed(1)} ms`,
  ].join('; ')
}

function startText({ walls }: Machine, { starts }: Measured): string {
  const texts = starts.map(({ isolation, ms, error }) =>
    ms === undefined ? `${isolation} fails: ${error ?? ''}` : `${isolation} starts in ${ms} ms`,
  )
  const why = walls.method === 'none' ? [`no sandbox: ${walls.reasons.at(-1) ?? ''}`] : []
  return [...texts, ...why].join('; ')
}

function proposalLines({ setting, value, reason }: Proposal): string[] {
  return [`  ${setting} = ${JSON.stringify(value)}`, ...wrap(reason, '      ')]
}

function needsLines(proposals: readonly Proposal[], jobs: JobKindName): string[] {
  const needs = proposals.filter(isForJobs)
  if (needs.length === 0) return []
  const others = Object.keys(JOB_KINDS).filter((name) => name !== jobs)
  return [
    '',
    `For derivations like ${jobs}: ${JOB_KINDS[jobs].text} (others: --for ${others.join('|')})`,
    ...needs.flatMap(proposalLines),
  ]
}
