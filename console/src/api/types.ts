/** The API's answers, as the screens name them; their shapes are made from its OpenAPI document (`schema.ts`). */
import type { components } from "@/api/schema";

type Schemas = components["schemas"];

export type RunStatus = Schemas["RunStatus"];
export type StepStatus = Schemas["StepStatus"];

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Facts = Record<string, unknown>;

export interface Page<T> { items: T[]; next_cursor: string | null }

export type RunSummary = Schemas["RunSummary"];
export type Step = Schemas["Step"];
export type Run = Schemas["Run"];
export type Event = Schemas["Event"];

export type StepReason = Schemas["StepReason"];
export type Explanation = Schemas["Explanation"];

/** One recorded call of a step: what was asked, what came of it, what it cost. */
export type Effect = Schemas["Effect"];

export type Limit = Schemas["Limit"];
export type Budget = Schemas["Budget"];

export type Artifact = Schemas["Artifact"];

export type DiffSide = Schemas["DiffSide"];
export type DiffStep = Schemas["DiffOutcome"];
export type Diff = Schemas["Diff"];

export type Wait = Schemas["Wait"];

export type DeadLetter = Schemas["DeadLetter"];
export type DeadLetters = Schemas["DeadLetters"];

export type BudgetSpec = Schemas["LimitOfRuns"];
export type Agent = Schemas["Agent"];

export type ServerTool = Schemas["ServerTool"];
export type ToolServer = Schemas["ToolServer"];

export type Model = Schemas["Model"];
export type Gate = Schemas["Gate"];

export type GraphSummary = Schemas["GraphSummary"];
export type GraphStep = Schemas["GraphStep"];
export type Graph = Schemas["Graph"];

export type Worker = Schemas["Worker"];

export type Key = Schemas["Key"];

export type Health = Schemas["Health"];

/** What happened within a window, and how the runs stand. Each series has one number a slice, the oldest first. */
export interface Stats extends Omit<Schemas["Stats"], "runs_by_status"> { runs_by_status: Partial<Record<RunStatus, number>> }
