import { Plus, X } from "lucide-react";
import { Button, IconButton } from "@/components/button";
import { Checkbox, Input, Select, TextArea } from "@/components/field";
import type { Draft, Field } from "@/routes/new/schema";

interface Props {
  field: Field;
  draft: Draft;
  errors: Readonly<Record<string, string>>;
  onChange: (draft: Draft) => void;
  /** The outermost object needs no frame of its own. */
  bare?: boolean;
}

/** The fields of a schema. What is wrong stands beside the field it is about. */
export function SchemaForm({ field, draft, errors, onChange, bare }: Props) {
  const error = errors[field.path] ?? null;
  const label = field.required ? field.label : `${field.label} (optional)`;
  const common = { label, hint: field.hint, error, "data-path": field.path };
  switch (field.kind) {
    case "object":
      return <Group field={field} draft={draft as { [name: string]: Draft }} errors={errors} onChange={onChange} bare={bare ?? false} />;
    case "array":
      return <List field={field} draft={draft as string[]} errors={errors} onChange={onChange} label={label} />;
    case "enum":
      return (
        <Select {...common} value={draft as string} onChange={(event) => onChange(event.target.value)}>
          <option value="">{field.required ? "Choose …" : "–"}</option>
          {field.choices!.map((choice) => <option key={JSON.stringify(choice)} value={JSON.stringify(choice)}>{typeof choice === "string" ? choice : JSON.stringify(choice)}</option>)}
        </Select>
      );
    case "boolean":
      if (!field.required) {
        return (
          <Select {...common} value={String(draft)} onChange={(event) => onChange(event.target.value === "" ? "" : event.target.value === "true")}>
            <option value="">–</option>
            <option value="true">Yes</option>
            <option value="false">No</option>
          </Select>
        );
      }
      return (
        <div>
          <Checkbox label={field.label} checked={draft === true} onChange={(event) => onChange(event.target.checked)} />
          {field.hint && <p className="text-[12.5px] text-soft">{field.hint}</p>}
          {error && <p role="alert" className="text-[12.5px] text-bad">{error}</p>}
        </div>
      );
    case "json":
      return <TextArea {...common} hint={field.hint || "JSON"} value={draft as string} rows={5} spellCheck={false} className="font-mono text-[12.5px]" onChange={(event) => onChange(event.target.value)} />;
    case "string":
      return field.long
        ? <TextArea {...common} value={draft as string} onChange={(event) => onChange(event.target.value)} />
        : <Input {...common} value={draft as string} onChange={(event) => onChange(event.target.value)} />;
    default:
      return <Input {...common} inputMode={field.kind === "integer" ? "numeric" : "decimal"} value={draft as string} onChange={(event) => onChange(event.target.value)} />;
  }
}

function Group({ field, draft, errors, onChange, bare }: Omit<Props, "draft"> & { draft: { [name: string]: Draft } }) {
  const inner = (
    <div className="flex flex-col gap-4">
      {field.fields!.map((one) => (
        <SchemaForm key={one.name} field={one} draft={draft[one.name] ?? ""} errors={errors} onChange={(next) => onChange({ ...draft, [one.name]: next })} />
      ))}
      {errors[field.path] && <p role="alert" className="text-[12.5px] text-bad">{errors[field.path]}</p>}
    </div>
  );
  if (bare) return inner;
  return (
    <fieldset className="border-l-2 pl-4">
      <legend className="float-left mb-2 w-full font-medium">{field.required ? field.label : `${field.label} (optional)`}</legend>
      {field.hint && <p className="clear-both mb-2 text-[12.5px] text-soft">{field.hint}</p>}
      <div className="clear-both">{inner}</div>
    </fieldset>
  );
}

function List({ field, draft, errors, onChange, label }: Omit<Props, "draft"> & { draft: string[]; label: string }) {
  return (
    <fieldset>
      <legend className="mb-1 font-medium">{label}</legend>
      {field.hint && <p className="mb-1 text-[12.5px] text-soft">{field.hint}</p>}
      <div className="flex flex-col gap-2">
        {draft.map((text, index) => (
          <div key={index} className="flex items-start gap-1">
            <div className="flex-1">
              <Input label={`${field.label} ${index + 1}`} hideLabel value={text} error={errors[`${field.path}.${index}`] ?? null} inputMode={field.items === "string" ? "text" : "decimal"}
                onChange={(event) => onChange(draft.map((one, at) => (at === index ? event.target.value : one)))} />
            </div>
            <IconButton label={`Remove ${field.label} ${index + 1}`} onClick={() => onChange(draft.filter((_, at) => at !== index))}><X className="size-4" aria-hidden /></IconButton>
          </div>
        ))}
        <Button size="small" className="self-start" icon={<Plus className="size-3.5" aria-hidden />} onClick={() => onChange([...draft, ""])}>Add</Button>
      </div>
      {errors[field.path] && <p role="alert" className="mt-1 text-[12.5px] text-bad">{errors[field.path]}</p>}
    </fieldset>
  );
}
